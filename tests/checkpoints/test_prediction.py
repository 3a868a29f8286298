"""Who is asked what a U-Net predicts, and in which order."""

import logging
from pathlib import Path
from typing import Any

import pytest

from calotype.checkpoints import detect, diffusers_scheduler
from calotype.checkpoints.compose import family_defaults
from calotype.checkpoints.prediction import decide
from calotype.errors import CheckpointError

PATH = Path("model.safetensors")
SD1, SD2, XL = (detect.FAMILIES[name] for name in ("sd1", "sd2", "sdxl"))


@pytest.mark.parametrize(
    ("family", "told", "kind", "zero", "decided"),
    [
        (SD1, {"explicit": "v", "metadata": {"prediction_type": "epsilon"}}, "v", False, "asked for"),
        (SD1, {"explicit": "eps", "names": ["v_pred", "ztsnr"]}, "eps", True, "asked for"),
        (XL, {"names": ["v_pred", "ztsnr"]}, "v", True, "key v_pred"),
        (XL, {"names": ["v_pred"], "metadata": {"prediction_type": "epsilon"}}, "v", False, "key v_pred"),
        (SD1, {"metadata": {"modelspec.predict_key": "v"}}, "v", False, "metadata modelspec.predict_key"),
        (
            SD2,
            {"metadata": {"modelspec.prediction_type": "epsilon"}},
            "eps",
            False,
            "modelspec.prediction_type",
        ),
        (SD1, {"scheduler": {"prediction_type": "sample"}}, "x0", False, "scheduler_config.json"),
        (
            SD2,
            {"scheduler": {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}},
            *("v", True, "scheduler_config.json"),
        ),
        (SD2, {"metadata": {"global_step": "875000"}}, "eps", False, "global_step 875000, that of 2.0-base"),
        (SD2, {"metadata": {"global_step": "110000"}}, "v", False, "2.1 at 768 pixels"),
        (SD1, {"metadata": {"global_step": "110000"}}, "eps", False, "by default"),
        (SD1, {}, "eps", False, "by default"),
        (XL, {"names": ["ztsnr"]}, "v", True, "ends in pure noise needs v"),
        (detect.FAMILIES["sd2-inpainting"], {}, "eps", False, "by default"),
        (detect.FAMILIES["sd-upscaler"], {}, "v", False, "by default"),
    ],
)
def test_the_first_who_knows(
    family: detect.Family, told: dict[str, Any], kind: str, zero: bool, decided: str
) -> None:
    found = decide(PATH, family, **told)
    assert (found.kind, found.zero_terminal_snr) == (kind, zero)
    assert decided in found.decided


def test_a_default_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "calotype"):
        decide(PATH, SD1)
        assert "model.safetensors predicts eps, by default" in caplog.text
        caplog.clear()
        decide(PATH, SD2)
        assert "taken as v" in caplog.text
        assert caplog.records[0].levelname == "WARNING"
        caplog.clear()
        decide(PATH, SD2, explicit="v_prediction")
        assert not caplog.records


def test_an_unknown_answer_is_an_error() -> None:
    with pytest.raises(CheckpointError, match="said to predict 'flow'; it should be one of eps, v and x0"):
        decide(PATH, SD1, explicit="flow")


@pytest.mark.parametrize(
    ("told", "sampler", "grid", "offset", "at_first"),
    [
        (
            {"_class_name": "DDIMScheduler", "set_alpha_to_one": False, "steps_offset": 1},
            "ddim",
            "leading",
            1,
            True,
        ),
        ({"_class_name": "DDIMScheduler", "timestep_spacing": "trailing"}, "ddim", "trailing", 0, False),
        ({"_class_name": "EulerDiscreteScheduler"}, "euler", "linspace", 0, False),
        ({"_class_name": "EulerDiscreteScheduler", "use_karras_sigmas": True}, "euler", "karras", 0, False),
        ({"_class_name": "LCMScheduler", "timestep_spacing": "leading"}, "lcm", "lcm", 0, False),
        # SD 1.5's own, and one that Calotype does not have
        (
            {"_class_name": "PNDMScheduler", "steps_offset": 1, "set_alpha_to_one": False},
            *("plms", "leading", 1, True),
        ),
        ({"_class_name": "DEISMultistepScheduler", "steps_offset": 1}, "dpmpp_2m", "karras", 1, False),
        (
            {"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++"},
            *("dpmpp_2m_sde", "linspace", 0, False),
        ),
        ({"_class_name": "DDIMScheduler", "rescale_betas_zero_snr": True}, "ddim", "trailing", 0, False),
    ],
)
def test_a_folders_scheduler(
    told: dict[str, Any], sampler: str, grid: str, offset: int, at_first: bool
) -> None:
    schedule, own = diffusers_scheduler.read(PATH, told | {"beta_schedule": "scaled_linear"}, SD1)
    assert (own.sampler, own.grid, own.offset, own.ends_at_first) == (sampler, grid, offset, at_first)
    assert schedule.zero_terminal_snr == told.get("rescale_betas_zero_snr", False)


@pytest.mark.parametrize(
    ("told", "remark"),
    [
        ({"_class_name": "PNDMScheduler", "skip_prk_steps": True}, None),
        ({"_class_name": "PNDMScheduler"}, "Runge-Kutta"),
        ({"_class_name": "DEISMultistepScheduler"}, "DEISMultistepScheduler"),
        ({"_class_name": "DPMSolverMultistepScheduler"}, None),
        ({"_class_name": "DPMSolverMultistepScheduler", "solver_order": 3}, "of order 3"),
        ({"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "dpmsolver"}, "is dpmsolver of"),
    ],
)
def test_what_a_scheduler_has_besides_is_told(told: dict[str, Any], remark: str | None) -> None:
    told_of = diffusers_scheduler.remarks(told)
    assert [remark in sentence for sentence in told_of] == ([True] if remark else [])


@pytest.mark.parametrize(
    ("told", "few"),
    [
        ({"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing"}, True),  # Lightning
        ({"_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "trailing"}, True),  # Turbo
        ({"_class_name": "LCMScheduler"}, True),
        ({"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading"}, False),
        ({"_class_name": "DDIMScheduler", "timestep_spacing": "trailing"}, False),
        (
            {
                "_class_name": "EulerDiscreteScheduler",
                "timestep_spacing": "trailing",
                "prediction_type": "v_prediction",
                "rescale_betas_zero_snr": True,
            },
            False,
        ),
    ],
)
def test_schedulers_of_few_steps(told: dict[str, Any], few: bool) -> None:
    _, own = diffusers_scheduler.read(PATH, told | {"beta_schedule": "scaled_linear"}, SD1)
    assert (own.steps, own.guidance) == ((4, 1.0) if few else (20, 7.5))
    # an LCM with a guidance embedding is told the scale
    lcm = detect.FAMILIES["lcm"]
    _, own = diffusers_scheduler.read(PATH, {"_class_name": "LCMScheduler"}, lcm)
    assert (own.steps, own.guidance, own.grid) == (4, 8.5, "lcm")


@pytest.mark.parametrize(
    ("title", "sampler", "grid", "steps", "guidance"),
    [
        ("SDXL Turbo 1.0", "euler_a", "trailing", 4, 1.0),
        ("sdxl_lightning_4step", "euler", "trailing", 4, 1.0),
        ("Dreamy LCM", "lcm", "lcm", 4, 1.0),
        ("Turbofan", "dpmpp_2m", "karras", 20, 7.0),
        ("", "dpmpp_2m", "karras", 20, 7.0),
    ],
)
def test_titles_of_few_steps(title: str, sampler: str, grid: str, steps: int, guidance: float) -> None:
    own = family_defaults(XL, decide(PATH, XL), title)
    assert (own.sampler, own.grid, own.steps, own.guidance) == (sampler, grid, steps, guidance)
