"""The globals of pickles that mean something to Calotype, by name; see pickled.py.

Gathered from what torch.save writes and from the lists that others keep for the checkpoints people share
(sd-v1 and sd-v2 hold OrderedDict, _rebuild_tensor_v2, storages, ModelCheckpoint and numpy's scalar).
"""

from __future__ import annotations

from calotype.checkpoints.number_type import TYPES, NumberType

DTYPES = {str(kind): kind for kind in TYPES.values()}

STORAGES: dict[str, NumberType] = {
    "torch.DoubleStorage": TYPES["float64"],
    "torch.FloatStorage": TYPES["float32"],
    "torch.HalfStorage": TYPES["float16"],
    "torch.BFloat16Storage": TYPES["bfloat16"],
    "torch.ComplexFloatStorage": TYPES["complex64"],
    "torch.ComplexDoubleStorage": TYPES["complex128"],
    "torch.LongStorage": TYPES["int64"],
    "torch.IntStorage": TYPES["int32"],
    "torch.ShortStorage": TYPES["int16"],
    "torch.CharStorage": TYPES["int8"],
    "torch.ByteStorage": TYPES["uint8"],
    "torch.BoolStorage": TYPES["bool"],
    "torch.storage.UntypedStorage": TYPES["uint8"],
    "torch.UntypedStorage": TYPES["uint8"],
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
