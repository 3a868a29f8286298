"""The globals of pickles that mean something to Calotype, by name; see pickled.py.

Gathered from what torch.save writes and from the lists that others keep for the checkpoints people share
(sd-v1 and sd-v2 hold OrderedDict, _rebuild_tensor_v2, storages, ModelCheckpoint and numpy's scalar).
"""

from __future__ import annotations

import torch

_DTYPES = (
    *("float64", "float32", "float16", "bfloat16", "complex64", "complex128", "bool"),
    *("int64", "int32", "int16", "int8", "uint8", "uint64", "uint32", "uint16"),
    *("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"),
)
DTYPES: dict[str, torch.dtype] = {f"torch.{name}": getattr(torch, name) for name in _DTYPES}

STORAGES: dict[str, torch.dtype] = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.ComplexFloatStorage": torch.complex64,
    "torch.ComplexDoubleStorage": torch.complex128,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
    "torch.storage.UntypedStorage": torch.uint8,
    "torch.UntypedStorage": torch.uint8,
}

# Classes whose objects are dictionaries; all become plain ones.
MAPPINGS = frozenset(
    {
        "collections.OrderedDict",
        "collections.defaultdict",
        "torch.nn.modules.container.ParameterDict",  # of textual inversions
        "pytorch_lightning.utilities.parsing.AttributeDict",  # Lightning's hyper_parameters
        "lightning_fabric.utilities.data.AttributeDict",
    }
)

# Classes that training leaves in the files people share. Their objects are only their names here.
HARMLESS = frozenset(
    {
        "argparse.Namespace",
        "builtins.bytearray",
        "builtins.bytes",
        "builtins.complex",
        "builtins.frozenset",
        "builtins.range",
        "builtins.set",
        "builtins.slice",
        "collections.Counter",
        "collections.deque",
        "datetime.datetime",
        "datetime.timedelta",
        "numpy.core.multiarray._reconstruct",
        "numpy._core.multiarray._reconstruct",
        "omegaconf.base.ContainerMetadata",
        "omegaconf.base.Metadata",
        "omegaconf.dictconfig.DictConfig",
        "omegaconf.listconfig.ListConfig",
        "omegaconf.nodes.AnyNode",
        "omegaconf.nodes.BooleanNode",
        "omegaconf.nodes.BytesNode",
        "omegaconf.nodes.EnumNode",
        "omegaconf.nodes.FloatNode",
        "omegaconf.nodes.IntegerNode",
        "omegaconf.nodes.PathNode",
        "omegaconf.nodes.StringNode",
        "pathlib.Path",
        "pathlib.PosixPath",
        "pathlib.PurePosixPath",
        "pathlib.PureWindowsPath",
        "pathlib.WindowsPath",
        "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
        "pytorch_lightning.callbacks.lr_monitor.LearningRateMonitor",
        "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
        "pytorch_lightning.callbacks.timer.Timer",
        "torch.device",
        "torch.torch_version.TorchVersion",
    }
)

# numpy's codes of scalars, in struct's letters
NUMBERS = dict(
    zip(
        ("f8", "f4", "f2", "b1", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1"),
        ("<d", "<f", "<e", "<?", "<q", "<i", "<h", "<b", "<Q", "<I", "<H", "<B"),
        strict=True,
    )
)
