"""Requests: what is refused and in which words, what is filled in, JSON there and back."""

import math

import pytest

from calotype.conditioning.prompt import parse
from calotype.errors import InputError
from calotype.models.presets import icons, sd1, sd2, sdxl, tiny
from calotype.tasks.request import LAST_SEED, Request, parse_size


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "no prompts"),
        ({"prompts": ()}, "no prompt; say in words"),
        ({"prompts": ""}, "prompt is empty; say in words"),
        ({"prompts": " \n"}, "prompt is empty"),
        ({"prompts": ["a", ""]}, "prompt is empty"),
        ({"prompts": "word " * 10_000}, r"50000 characters long \(10000 words\); give at most 4000"),
        ({"prompts": "a", "negative": "x" * 5000}, "negative prompt is 5000"),
        ({"prompts": 3}, "prompts is 3"),
        ({"prompts": "a", "steps": 0}, "steps is 0; give a whole number from 1"),
        ({"prompts": "a", "steps": -3}, "steps is -3"),
        ({"prompts": "a", "steps": 2.5}, r"steps is 2\.5; input should be"),
        ({"prompts": "a", "steps": 100_000}, "steps is 100000"),
        ({"prompts": "a", "count": 0}, "count is 0; give a whole number from 1"),
        ({"prompts": "a", "count": 10**9}, "count is"),
        ({"prompts": ["a", "b"], "count": 6000}, "12000 pictures"),
        ({"prompts": "a", "guidance": -1}, r"guidance is -1\.0; give a number of at least 0"),
        ({"prompts": "a", "guidance": math.nan}, "guidance is nan"),
        ({"prompts": "a", "guidance": math.inf}, "guidance is inf"),
        ({"prompts": "a", "sampler": "dpm_2m"}, "did you mean 'dpmpp_2m'"),
        ({"prompts": "a", "sampler": "qqqq"}, "choose one of ddpm, ddim"),
        ({"prompts": "a", "grid": "karas"}, "did you mean 'karras'"),
        ({"prompts": "a", "noise": "filox"}, "There is no noise 'filox'; did you mean 'philox'"),
        ({"prompts": "a", "noise": "gpu"}, "choose one of calotype, torch, philox"),
        ({"prompts": "a", "prompt_syntax": "a111"}, "no prompt syntax 'a111'; did you mean 'a1111'"),
        ({"prompts": "a", "clip_skip": 0}, "clip_skip is 0; give 1 for the last text layer"),
        ({"prompts": "a", "clip_skip": 1.5}, r"clip_skip is 1\.5; input should be"),
        ({"prompts": "a", "seed": -1}, "seed is -1; give a whole number from 0"),
        ({"prompts": "a", "seed": 2**64}, "seed is"),
        ({"prompts": "a", "seed": LAST_SEED, "count": 2}, "less the number of pictures"),
        ({"prompts": "a", "width": 0}, "width is 0"),
        ({"prompts": "a", "height": 60_000}, "height is 60000; give a number of pixels from 1 to 4096"),
        ({"prompts": "a", "rescale": 2}, "rescale"),
        ({"prompts": "a", "interval": (5, 1)}, "the lower first"),
        ({"prompts": "a", "sampler": "heun", "sampler_options": {"eta": 1}}, "takes none"),
        ({"prompts": "a", "sampler": "ddim", "sampler_options": {"theta": 1}}, "takes eta, s_noise"),
        ({"prompts": "a", "sampler": "ddim", "sampler_options": {"eta": -1}}, "at least 0"),
        ({"prompts": "a", "sampler_options": {"eta": 1}}, "need a sampler"),
        ({"prompts": "a", "stepps": 3}, "did you mean 'steps'"),
        ({"prompts": "a", "zzz": 3}, "no field 'zzz'"),
    ],
)
def test_wrong_fields_are_one_sentence(fields: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        Request(**fields)
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith((".", "?"))
    assert len(text) < 300


def test_json_there_and_back() -> None:
    request = Request(
        prompts=["a red apple", "一个红苹果"],
        sampler="ddim",
        sampler_options={"eta": 0.5},
        interval=(0.3, 6),
        apg={},
        seed=LAST_SEED - 1,
        noise="philox",
        prompt_syntax="a1111",
        clip_skip=2,
    )
    assert Request.from_json(request.model_dump_json()) == request
    assert request.pictures == 2
    with pytest.raises(InputError, match="steps is 0"):
        Request.from_json('{"prompts": ["a"], "steps": 0}')
    with pytest.raises(InputError, match="invalid JSON"):
        Request.from_json("{")


def test_a_text_is_one_prompt_and_nothing_changes_a_request() -> None:
    request = Request(prompts="a red apple")
    assert request.prompts == ("a red apple",)
    with pytest.raises(ValueError, match="frozen"):
        request.steps = 3  # type: ignore[misc]


def test_resolving_fills_in_the_models_own() -> None:
    request = Request(prompts="a").resolved(icons())
    assert (request.width, request.height) == (128, 128)
    assert request.steps == icons().defaults.steps
    assert request.guidance == icons().defaults.guidance
    assert request.sampler == icons().defaults.sampler
    assert request.grid == icons().defaults.grid
    assert request.seed is not None
    assert request.resolved(icons()) == request
    assert Request(prompts="a", steps=7, guidance=0).resolved(icons()).guidance == 0
    assert Request(prompts="a").resolved(icons()).seed != request.seed


def test_the_syntax_is_the_models_own_unless_named() -> None:
    captioned = Request(prompts="A button (blood type) [1:2] AND <lora:x:1>")
    assert captioned.resolved(icons()).prompt_syntax == "plain"
    assert captioned.resolved(icons()).parsed(captioned.prompts[0]) is None
    for model in (sd1(), sd2(), sdxl()):
        asked = Request(prompts="a (red:1.2) apple").resolved(model)
        assert asked.prompt_syntax == "a1111"
        assert asked.parsed("a (red:1.2) apple") == parse("a (red:1.2) apple")
        assert Request(prompts="(", prompt_syntax="plain").resolved(model).prompt_syntax == "plain"
    with pytest.raises(InputError, match="asks for the LoRA 'x'; give its file, or name the folder"):
        Request(prompts="a <lora:x:1>").resolved(sd1())
    with pytest.raises(InputError, match="12 text layers, give 1 to 12"):
        Request(prompts="a", clip_skip=13).resolved(sd1())
    assert Request(prompts="a", clip_skip=12).resolved(sd1()).clip_skip == 12


def test_the_nearest_sizes_are_named() -> None:
    with pytest.raises(
        InputError, match=r"width is 100, but the model icons needs a multiple of 8.*96 and 104"
    ):
        Request(prompts="a", width=100).resolved(icons())
    with pytest.raises(InputError, match="nearest is 4"):
        Request(prompts="a", height=3).resolved(tiny())


def test_sizes_are_read() -> None:
    assert parse_size("128") == (128, 128)
    assert parse_size("128x96") == (128, 96)
    assert parse_size("64X32") == (64, 32)
    for wrong in ("", "x", "12x", "1x2x3", "-8", "8.5", "big"):
        with pytest.raises(InputError, match="WIDTHxHEIGHT"):
            parse_size(wrong)
