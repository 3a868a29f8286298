"""ControlNets and the x4 upscaler at work, beside diffusers' pipelines from the same latents."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.checkpoints.families import XL, Theirs, written_by_diffusers
from tests.checkpoints.test_control_files import HINT
from tests.networks.reference import diffusers_controlnet, relative_error
from tests.tasks.test_additions import write as write_lora
from torch import Tensor, nn

from calotype.checkpoints import controlnet, diffusers_writer, shelf, single_file
from calotype.conditioning.conditioning import Conditioning
from calotype.diffusion import guidance
from calotype.diffusion.grids import leading
from calotype.diffusion.known_noise import TorchNoise
from calotype.diffusion.samplers import SAMPLERS
from calotype.errors import CheckpointError, InputError
from calotype.models.controls import Controls
from calotype.models.latent_diffusion import LatentDiffusion, NetworkDenoiser
from calotype.networks.config import ControlNetConfig
from calotype.tasks.generate import Notice, generate
from calotype.tasks.guiding import Control
from calotype.tasks.picture import Picture
from calotype.tasks.request import Request

STEPS, SCALE = 8, 3.0


@dataclasses.dataclass(frozen=True)
class Setting:
    """A family's folder, two ControlNets for it, and pictures, as files and as diffusers' modules."""

    theirs: Theirs
    nets: tuple[nn.Module, nn.Module]
    folders: tuple[str, str]
    pictures: tuple[str, str]


def picture(path: Path, seed: int, size: tuple[int, int] = (16, 24)) -> str:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(path)
    return str(path)


@pytest.fixture(scope="module", params=["sd1", "sdxl"])
def setting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return made(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def sd1(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return made("sd1", tmp_path_factory.mktemp("sd1"))


def made(name: str, folder: Path) -> Setting:
    theirs = written_by_diffusers(name, folder / "model")
    nets, folders, pictures = [], [], []
    for i in range(2):
        net = diffusers_controlnet(ControlNetConfig(theirs.config.unet, hint_channels=HINT, pooled=False))
        with torch.no_grad():  # apart from one another, and small: the noise must not drown
            for parameter in net.parameters():
                parameter *= 0.9 - 0.1 * i
        net.save_pretrained(folder / f"net{i}")
        nets.append(net)
        folders.append(str(folder / f"net{i}"))
        pictures.append(picture(folder / f"{i}.png", i))
    return Setting(theirs, tuple(nets), tuple(folders), tuple(pictures))


def ddim(config: Any, model: LatentDiffusion) -> Any:
    """Their DDIM with our table of noise levels, to the last bit."""
    import diffusers

    schedule = model.denoiser.schedule
    told = config.schedule
    scheduler = diffusers.DDIMScheduler(
        beta_start=told.beta_start,
        beta_end=told.beta_end,
        beta_schedule=told.kind,
        prediction_type={"eps": "epsilon", "v": "v_prediction"}[config.parameterization],
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    scheduler.alphas_cumprod = 1 / (1 + schedule.sigmas**2)
    scheduler.final_alpha_cumprod = scheduler.alphas_cumprod[0]
    return scheduler


def tokens(model: LatentDiffusion) -> tuple[Conditioning, Conditioning]:
    with torch.no_grad():
        return model.text_encoder(["a red apple"]), model.text_encoder(["car"])


def seen(path: str) -> Tensor:
    return torch.from_numpy(np.array(PIL.Image.open(path))).double().permute(2, 0, 1)[None] / 255


def their_latents(
    setting: Setting, model: LatentDiffusion, start: Tensor, which: Sequence[int], **options: Any
) -> Tensor:
    """Their ControlNet pipeline's, in float64, from `start` (1 C h w)."""
    import diffusers
    from diffusers import MultiControlNetModel

    config = setting.theirs.config
    positive, negative = tokens(model)
    nets = [setting.nets[i] for i in which]
    pictures = [seen(setting.pictures[i]) for i in which]
    many = len(nets) > 1
    shared: dict[str, Any] = {
        "vae": setting.theirs.vae,
        "unet": setting.theirs.unet,
        "controlnet": MultiControlNetModel(nets) if many else nets[0],
        "scheduler": ddim(config, model),
        "text_encoder": None,
        "tokenizer": None,
        "feature_extractor": None,
    }
    asked: dict[str, Any] = {
        "prompt_embeds": positive.tokens,
        "negative_prompt_embeds": negative.tokens,
        "num_inference_steps": STEPS,
        "guidance_scale": SCALE,
        "latents": start,
        "output_type": "latent",
        "image": pictures if many else pictures[0],
    }
    if config.sizes is None:
        pipe = diffusers.StableDiffusionControlNetPipeline(
            **shared, safety_checker=None, requires_safety_checker=False
        )
    else:
        shared |= {"text_encoder_2": None, "tokenizer_2": None, "add_watermarker": False}
        pipe = diffusers.StableDiffusionXLControlNetPipeline(**shared)
        asked |= {
            "pooled_prompt_embeds": positive.vector,
            "negative_pooled_prompt_embeds": negative.vector,
            "original_size": (16, 24),
            "target_size": (16, 24),
        }
    pipe.set_progress_bar_config(disable=True)
    return pipe(**asked, **options).images


def our_latents(
    setting: Setting, model: LatentDiffusion, start: Tensor, which: Sequence[int], **options: Any
) -> Tensor:
    """The same by our parts, in float64."""
    guess = options.get("guess", False)
    scales = torch.tensor([options.get("scales", (1.0, 1.0))[i] for i in which], dtype=torch.float64)
    nets = [controlnet.recognise(Path(setting.folders[i])).load(dtype=None) for i in which]
    controls = Controls(nets, [guess] * len(nets))
    positive, negative = tokens(model)
    sizes = setting.theirs.config.sizes
    if sizes is not None:
        told = sizes.vector(24, 16, negative=False).double()
        positive, negative = (
            dataclasses.replace(one, vector=torch.cat([one.vector, told], dim=1))
            for one in (positive, negative)
        )
    control = controls.hinted([seen(setting.pictures[i]) for i in which])
    positive = dataclasses.replace(positive, control=control, strength=scales[None])
    negative = dataclasses.replace(negative, control=control, strength=scales[None] * (not guess))
    return followed(model, model.denoiser.controlled(controls), positive, negative, start)


def begun(model: LatentDiffusion, noise: Tensor) -> Tensor:
    """What their DDIM must begin with to begin as we do: at the first level, not at pure noise."""
    schedule = model.denoiser.schedule
    first = leading(schedule, 1)(STEPS, schedule.sigma_min, schedule.sigma_max)[0]
    return noise * first / (1 + first**2).sqrt()


def followed(
    model: LatentDiffusion,
    denoiser: NetworkDenoiser,
    positive: Conditioning,
    negative: Conditioning,
    start: Tensor,
) -> Tensor:
    """Eight guided steps of DDIM in float64, from latents and to latents as diffusers scales them."""
    schedule = model.denoiser.schedule
    sigmas = leading(schedule, 1, schedule.sigma_min)(STEPS, schedule.sigma_min, schedule.sigma_max)
    guided = guidance.guided(denoiser, (positive, negative), SCALE)
    x = start * (1 + sigmas[0] ** 2).sqrt()
    for step in SAMPLERS["ddim"](guided, x, sigmas, TorchNoise([0])):
        x = step.x
    return x / (1 + sigmas[-1] ** 2).sqrt()


@pytest.mark.parametrize(
    ("which", "ours", "theirs"),
    [
        ((0,), {}, {}),
        ((0,), {"guess": True}, {"guess_mode": True}),
        (
            (0, 1),
            {"scales": (0.5, 0.25)},
            {"controlnet_conditioning_scale": [0.5, 0.25]},
        ),
    ],
    ids=["one", "guess mode", "two"],
)
def test_latents_after_eight_steps(
    setting: Setting, which: tuple[int, ...], ours: dict[str, Any], theirs: dict[str, Any]
) -> None:
    model = shelf.load(setting.theirs.folder, dtype=None)
    start = torch.randn(1, 4, 8, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        wanted = their_latents(setting, model, start, which, **theirs)
        found = our_latents(setting, model, start, which, **ours)
        assert relative_error(found, wanted) <= 1e-8
        plain = our_latents(setting, model, start, which, scales=(0.0, 0.0))
    assert relative_error(plain, wanted) > 1e-3  # it does say something


@pytest.mark.parametrize(
    ("options", "theirs"),
    [
        ({}, {}),
        (
            {"scale": 0.5, "start": 0.25, "end": 0.75},
            {
                "controlnet_conditioning_scale": 0.5,
                "control_guidance_start": 0.25,
                "control_guidance_end": 0.75,
            },
        ),
    ],
    ids=["whole way", "part of it"],
)
def test_generate_draws_what_their_pipeline_draws(
    sd1: Setting, options: dict[str, Any], theirs: dict[str, Any]
) -> None:
    """In float32, by request: files in, picture out."""
    model = shelf.load(sd1.theirs.folder)
    asked = Request(
        prompts="a red apple",
        negative="car",
        steps=STEPS,
        guidance=SCALE,
        sampler="ddim",
        grid="leading",
        seed=4,
        noise="torch",
        prompt_syntax="plain",
        width=24,
        height=16,
        controls=[{"net": sd1.folders[0], "picture": sd1.pictures[0], **options}],
    )
    (found,) = [event for event in generate(model, asked) if isinstance(event, Picture)]
    start = torch.randn(1, 4, 8, 12, generator=torch.Generator().manual_seed(4)).double()
    exact = shelf.load(sd1.theirs.folder, dtype=None)
    with torch.no_grad():
        wanted = their_latents(sd1, exact, begun(exact, start), (0,), **theirs)
    scale = (1 + exact.denoiser.schedule.sigma_min**2) ** 0.5
    assert relative_error(found.latents[None].double() / scale, wanted) <= 1e-4


def pictures(model: LatentDiffusion, **fields: Any) -> list[Picture]:
    asked = Request(**{"prompts": "a red apple", "steps": 3, "width": 24, "height": 16, "seed": 4} | fields)
    return [event for event in generate(model, asked) if isinstance(event, Picture)]


def test_pixels_do_not_depend_on_company_and_are_made_again(sd1: Setting) -> None:
    model = shelf.load(sd1.theirs.folder)
    controls = [
        {"net": sd1.folders[0], "picture": sd1.pictures[0], "guess": True},
        {"net": sd1.folders[1], "picture": sd1.pictures[1], "scale": 0.5, "end": 0.7},
    ]
    among = pictures(model, prompts=["a red apple", "car", "a car"], controls=controls)
    (alone,) = pictures(model, prompts="car", seed=5, controls=controls)
    assert alone.image.tobytes() == among[1].image.tobytes()
    (without,) = pictures(model, prompts="car", seed=5)
    assert without.image.tobytes() != alone.image.tobytes()
    (again,) = [e for e in generate(model, among[1].record.request) if isinstance(e, Picture)]
    assert again.image.tobytes() == among[1].image.tobytes()


def test_a_lora_a_controlnet_and_windows_at_once(sd1: Setting, tmp_path: Path) -> None:
    model = shelf.load(sd1.theirs.folder)
    before = {name: value.clone() for name, value in model.denoiser.state_dict().items()}
    every = {
        "controls": [{"net": sd1.folders[0], "picture": sd1.pictures[0]}],
        "loras": (str(write_lora(tmp_path / "flat.safetensors", model, 1)),),
        "tile": 16,
    }
    (merged,) = pictures(model, **every)
    (live,) = pictures(model, **every, lora_live=True)
    assert relative_error(live.latents, merged.latents) <= 1e-5
    for name in every:
        (without,) = pictures(model, **{key: value for key, value in every.items() if key != name})
        assert relative_error(without.latents, merged.latents) > 1e-3, name
    assert all(torch.equal(value, before[name]) for name, value in model.denoiser.state_dict().items())


def test_what_cannot_be_controlled_is_said(sd1: Setting, tmp_path: Path) -> None:
    model = shelf.load(sd1.theirs.folder)
    usual = {"net": sd1.folders[0], "picture": sd1.pictures[0]}
    other = tmp_path / "xl"
    diffusers_controlnet(ControlNetConfig(XL, hint_channels=HINT)).save_pretrained(other)
    text = tmp_path / "text.png"
    text.write_text("no picture")
    for change, kind, sentence in (
        ({"net": str(other)}, CheckpointError, "for Stable Diffusion XL .* fit the model sd1 .* use one for"),
        ({"net": "none.safetensors"}, InputError, "There is no file none"),
        ({"picture": str(tmp_path / "none.png")}, InputError, r"none\.png is missing"),
        ({"picture": str(text)}, InputError, "text.png is not a picture"),
        ({"start": 0.5, "end": 0.5}, InputError, "give two parts of the way"),
        ({"scale": float("nan")}, InputError, "control scale is nan"),
        ({"start": 0.4, "end": 0.5}, InputError, "holds none of the 3 steps"),
        ({"weight": 1}, InputError, "no field 'controls.0.weight'"),
        ({"net_hash": "0" * 64}, InputError, "is not the ControlNet this picture was made with"),
    ):
        with pytest.raises(kind, match=sentence):
            pictures(model, controls=[{**usual, **change}])
    with pytest.raises(InputError, match="at most 8"):
        pictures(model, controls=[usual] * 9)
    with pytest.raises(InputError, match="does not enlarge pictures"):
        pictures(model, noise_level=20)


def test_a_picture_of_another_size_is_scaled_and_announced(sd1: Setting) -> None:
    model = shelf.load(sd1.theirs.folder)
    controls = [{"net": sd1.folders[0], "picture": PIL.Image.open(sd1.pictures[0])}]
    asked = Request(prompts="car", steps=2, width=32, height=32, seed=1, controls=controls)
    found = list(generate(model, asked))
    notices = [event.text for event in found if isinstance(event, Notice)]
    assert notices == [
        "The control picture in memory is 24x16 and was scaled to 32x32; --size says what to draw."
    ]
    assert isinstance(found[-1], Picture)


def test_steps_in_which_a_control_speaks() -> None:
    control = Control(net="x", picture="y", start=0.25, end=0.75)
    assert [control.speaks(step, 8) for step in range(8)] == [False] * 2 + [True] * 4 + [False] * 2
    assert all(Control(net="x", picture="y").speaks(step, 7) for step in range(7))


@pytest.fixture(scope="module")
def upscaler(tmp_path_factory: pytest.TempPathFactory) -> Theirs:
    return written_by_diffusers("sd-upscaler", tmp_path_factory.mktemp("upscaler") / "model")


def in_float32(shape: Sequence[int], generator: Any = None, dtype: Any = None, **_: Any) -> Tensor:
    """Noise for a pipeline in float64: the numbers that one in float32 would draw."""
    return torch.randn(tuple(shape), generator=generator).to(dtype)


def test_the_upscaler_draws_what_theirs_draws(
    upscaler: Theirs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import diffusers
    from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion_upscale as module

    small = picture(tmp_path / "small.png", 7, (12, 8))
    exact = shelf.load(upscaler.folder, dtype=None)
    assert exact.config.low_res is not None
    levels = exact.config.low_res.schedule.build().sigmas
    low_res = diffusers.DDPMScheduler()
    low_res.alphas_cumprod = 1 / (1 + levels**2)  # to the last bit, as in `ddim`
    monkeypatch.setattr(module, "randn_tensor", in_float32)
    pipe = diffusers.StableDiffusionUpscalePipeline(
        vae=upscaler.vae,
        text_encoder=None,
        tokenizer=None,
        unet=upscaler.unet,
        low_res_scheduler=low_res,
        scheduler=ddim(upscaler.config, exact),
    )
    pipe.set_progress_bar_config(disable=True)
    positive, negative = tokens(exact)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(4)  # the small picture's noise, then the latents'
        noise = torch.randn(1, 3, 12, 8, generator=generator).double()
        start = begun(exact, torch.randn(1, 4, 12, 8, generator=generator).double())
        wanted = pipe(
            image=seen(small),
            prompt_embeds=positive.tokens,
            negative_prompt_embeds=negative.tokens,
            num_inference_steps=STEPS,
            guidance_scale=SCALE,
            noise_level=15,
            generator=torch.Generator().manual_seed(4),
            latents=start,
            output_type="latent",
        ).images
        noised = (seen(small) * 2 - 1 + levels[15] * noise) / (1 + levels[15] ** 2).sqrt()
        positive, negative = (
            dataclasses.replace(one, channels=noised, label=torch.tensor([15]))
            for one in (positive, negative)
        )
        assert relative_error(followed(exact, exact.denoiser, positive, negative, start), wanted) <= 1e-8

    model = shelf.load(upscaler.folder)
    asked = Request(
        prompts="a red apple",
        negative="car",
        steps=STEPS,
        guidance=SCALE,
        sampler="ddim",
        grid="leading",
        seed=4,
        noise="torch",
        prompt_syntax="plain",
        image=small,
        noise_level=15,
    )
    (found,) = [event for event in generate(model, asked) if isinstance(event, Picture)]
    assert found.image.size == (8 * model.config.factor, 12 * model.config.factor)
    scale = (1 + exact.denoiser.schedule.sigma_min**2) ** 0.5
    assert relative_error(found.latents[None].double() / scale, wanted) <= 1e-4


def test_enlarged_pictures_know_nothing_of_each_other(upscaler: Theirs, tmp_path: Path) -> None:
    model = shelf.load(upscaler.folder)
    small = picture(tmp_path / "small.png", 7, (9, 7))
    size: dict[str, Any] = {"width": None, "height": None}
    among = pictures(model, prompts=["a red apple", "car", "a car"], image=small, **size)
    (alone,) = pictures(model, prompts="car", seed=5, image=small, **size)
    assert alone.image.tobytes() == among[1].image.tobytes()
    assert alone.record.request.noise_level == 19  # the tiny model's highest
    (other,) = pictures(model, prompts="car", seed=5, image=small, noise_level=0, **size)
    assert other.image.tobytes() != alone.image.tobytes()
    (again,) = [e for e in generate(model, among[1].record.request) if isinstance(e, Picture)]
    assert again.image.tobytes() == alone.image.tobytes()
    for wrong, sentence in (
        ({"image": small, "noise_level": 20}, "noise_level is 20; give a whole number from 0 to 19"),
        ({"image": small, "width": 16}, "2 times its 7x9; leave the size out"),
        ({}, "name the picture with --image"),
    ):
        with pytest.raises(InputError, match=sentence):
            pictures(model, **size | wrong)


def test_an_upscaler_travels_to_diffusers_and_back(upscaler: Theirs, tmp_path: Path) -> None:
    import diffusers

    model = shelf.load(upscaler.folder, dtype=None)
    diffusers_writer.write(tmp_path / "folder", model, None, {})
    pipe = diffusers.StableDiffusionUpscalePipeline.from_pretrained(tmp_path / "folder")
    assert pipe.config.max_noise_level == 350
    assert pipe.low_res_scheduler.config.beta_schedule == "scaled_linear"
    assert shelf.recognise(tmp_path / "folder").config.low_res == model.config.low_res
    single_file.write(tmp_path / "one.safetensors", model, None, {})
    stored = load_file(tmp_path / "one.safetensors")
    schedule = {"low_scale_model.betas": torch.zeros(3), "low_scale_model.alphas_cumprod": torch.zeros(3)}
    save_file(stored | schedule, tmp_path / "theirs.safetensors")  # as Stability's file, without our config
    found = shelf.recognise(tmp_path / "theirs.safetensors")
    assert found.config.schedule == model.config.schedule
    assert found.config.low_res == model.config.low_res
