"""Tasks that begin from a picture, over HTTP: the native interface and both dialects, to the pixels that
the same request makes in Python.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import openai
import PIL.Image
import PIL.ImageDraw
import pytest
import webuiapi
from tests.server.conftest import Live

from calotype.server.desk import Desk
from calotype.server.store import Store
from calotype.tasks.request import Request
from calotype.tasks.restoration import Restoration

RESTORER = "photo"


def picture(size: tuple[int, int] = (32, 32)) -> PIL.Image.Image:
    rows = np.random.default_rng(0).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    return PIL.Image.fromarray(rows).resize(size, PIL.Image.Resampling.BICUBIC)


def half(size: tuple[int, int] = (32, 32)) -> PIL.Image.Image:
    mask = PIL.Image.new("RGB", size)
    PIL.ImageDraw.Draw(mask).rectangle((0, 0, size[0] // 2 - 1, size[1]), fill="white")
    return mask


def png(image: PIL.Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def text(image: PIL.Image.Image) -> str:
    return base64.b64encode(png(image)).decode()


def opened(data: bytes) -> PIL.Image.Image:
    return PIL.Image.open(io.BytesIO(data)).convert("RGB")


def alone(live: Live, **fields: Any) -> PIL.Image.Image:
    return live.desk.models.get("tiny").pictures(fields.pop("prompts", "a red apple"), **fields)[0].image


@pytest.fixture
def http(live: Live) -> Iterator[httpx.Client]:
    with live.client() as http:
        yield http


def over(http: httpx.Client, job: dict[str, Any]) -> dict[str, Any]:
    """The job, watched to its end."""
    last: dict[str, Any] = {}
    with http.stream("GET", f"/v1/jobs/{job['id']}/events") as stream:
        for line in stream.iter_lines():
            if line.startswith("data: "):
                last = json.loads(line.removeprefix("data: "))
    return last


def done(http: httpx.Client, **fields: Any) -> list[PIL.Image.Image]:
    answer = http.post("/v1/jobs", json=fields)
    assert answer.status_code == 202, answer.text
    job = over(http, answer.json())
    assert job["state"] == "done", job["error"]
    return [opened(http.get(found["url"]).content) for found in job["pictures"]]


TASKS: dict[str, dict[str, Any]] = {
    "image to image": {"image": picture(), "strength": 0.5},
    "inpainting": {"image": picture(), "mask": half()},
    "outpainting": {"image": picture(), "margin": (16, 0, 0, 0)},
    "variations": {"vary": 0.3, "vary_seed": 5},
    "high resolution": {"hires_from": (32, 32), "width": 64, "height": 64},
    "tiling": {"wrap": "x", "width": 64, "height": 32},
    "windows": {"tile": 32, "width": 64, "height": 32},
    "inversion": {"image": picture(), "invert": "walk", "was": "a blue car"},
    "mixture": {"toward": "a blue car", "blend": 0.5},
}


@pytest.mark.parametrize("task", TASKS)
def test_a_task(http: httpx.Client, live: Live, task: str) -> None:
    shared = {"prompts": "a red apple", "steps": 2, "seed": 7, **TASKS[task]}
    sent = {name: text(v) if isinstance(v, PIL.Image.Image) else v for name, v in shared.items()}
    (found,) = done(http, **sent)
    assert found.tobytes() == alone(live, **shared).tobytes()
    assert not list((live.desk.store.folder / "uploads").iterdir())  # kept as long as the job needs


def test_variations_share_a_batch(http: httpx.Client, live: Live) -> None:
    fields = {"prompts": "a red apple", "steps": 2, "seed": 7, "vary": 0.3, "vary_seed": 5}
    pictures = done(http, **fields, count=3)
    for i, found in enumerate(pictures):
        assert found.tobytes() == alone(live, **{**fields, "vary_seed": 5 + i}).tobytes()


def test_frames(http: httpx.Client, live: Live) -> None:
    prompts, fields = ["a red apple", "a blue car"], {"steps": 2, "seed": 7, "frames": 3}
    pictures = done(http, prompts=prompts, **fields)
    expected = live.desk.models.get("tiny").pictures(prompts, **fields)
    assert [found.tobytes() for found in pictures] == [one.image.tobytes() for one in expected]


def test_a_form(http: httpx.Client, live: Live) -> None:
    fields = {"prompts": "a red apple", "steps": 2, "seed": 7}
    files = {"image": ("name.png", png(picture())), "mask": ("../x", png(half()))}
    job = http.post("/v1/jobs", data={"request": json.dumps(fields)}, files=files).json()
    end = over(http, job)
    found = opened(http.get(end["pictures"][0]["url"]).content)
    assert found.tobytes() == alone(live, **fields, image=picture(), mask=half()).tobytes()
    assert end["request"]["image"]["path"] == ""


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"image": {"path": "/etc/passwd"}}, "is no picture"),
        ({"image": "/etc/passwd"}, "no base64"),
        ({"image": base64.b64encode(b"GIF89a").decode()}, "no readable picture"),
        ({"image": text(picture()), "mask": text(half((16, 16)))}, "is 16x16 pixels"),
        ({"image": text(picture()), "mask": text(PIL.Image.new("RGB", (32, 32)))}, "all black"),
        ({"mask": text(half())}, "needs an image"),
        ({"net_hash": "x"}, "net_hash"),
        ({"tile": 8}, "at least 32"),
        ({"model": "photo"}, "cannot draw"),
        ({"kernel": text(half())}, "has no kernel"),
    ],
)
def test_refused(http: httpx.Client, fields: dict[str, Any], told: str) -> None:
    answer = http.post("/v1/jobs", json={"prompts": "a red apple", "steps": 1, **fields})
    if answer.status_code == 202:  # what only the pixels say
        assert told in over(http, answer.json())["error"]
        return
    assert answer.status_code == 422
    assert told in answer.json()["error"]["message"]


def test_restorations(http: httpx.Client, live: Live) -> None:
    image = text(picture((40, 40)))
    (clean,) = done(http, task="denoise", image=image, sigma=25)
    assert clean.size == (40, 40)
    pictures = done(http, task="denoise", image=image, sigma=25, samples=2, steps=2)
    assert len(pictures) == 4  # the mean, two samples, the map
    assert pictures[1].tobytes() != pictures[2].tobytes()
    (large,) = done(http, task="upscale", image=image, scale=2, steps=2)
    assert large.size == (80, 80)
    (sharp,) = done(http, task="deblur", image=image, blur=1.0, steps=2)
    assert sharp.size == (40, 40)
    (whole,) = done(http, task="inpaint", image=image, mask=text(half((40, 40))), steps=2)
    kept = np.asarray(whole)[:, 20:].astype(int) - np.asarray(picture((40, 40)))[:, 20:]
    assert abs(kept).max() <= 1
    assert not list((live.desk.store.folder / "uploads").iterdir())


def test_restorations_say_what_they_are(http: httpx.Client) -> None:
    body = {"task": "denoise", "image": text(picture()), "sigma": 25, "samples": 2, "steps": 1, "seed": 3}
    end = over(http, http.post("/v1/jobs", json=body).json())
    assert [(found["kind"], found["seed"]) for found in end["pictures"]] == [
        *(("picture", 3), ("sample", 3), ("sample", 4), ("uncertainty", 3))
    ]
    told = http.post("/v1/read", content=http.get(end["pictures"][0]["url"]).content).json()["request"]
    assert told == {"task": "denoise", "sigma": 25, "samples": 2, "steps": 1, "seed": 3}
    for fields, told in (
        ({"task": "inpaint"}, "needs a mask"),
        ({"task": "denoise", "model": "tiny"}, "name photo"),
        ({"task": "denoise", "samples": 65}, "from 0 to 64"),
        ({"task": "denoise", "steps": 1000}, "allows 150"),
        ({"task": "paint"}, "task is 'paint'"),
    ):
        answer = http.post("/v1/jobs", json={"image": text(picture()), **fields})
        assert answer.status_code == 422
        assert told in answer.json()["error"]["message"]


def test_uploads_outlive_the_server(desk: Desk) -> None:
    """A job accepted and not begun is drawn from its picture by the next server; other uploads are gone."""
    asked = Request(prompts="a red apple", steps=1, image=picture(), model="tiny")
    job = desk.submit(asked, "me")
    folder = desk.store.folder
    (folder / "uploads" / "0123-image.png").write_bytes(b"left over")
    desk.store.close()
    again = Store(folder)
    assert again.uploads(job)["image"].tobytes() == picture().tobytes()
    assert len(list((folder / "uploads").iterdir())) == 1
    again.discard(job.id)
    assert not list((folder / "uploads").iterdir())
    again.close()


def test_openai_edits(live: Live) -> None:
    with openai.OpenAI(
        base_url=f"{live.address}/v1", api_key="none", http_client=live.client(), max_retries=0
    ) as client:
        extra: Any = {"seed": 7, "steps": 2}
        shared = {"prompts": "a red apple", "steps": 2, "seed": 7, "image": picture()}
        found = client.images.edit(
            image=png(picture()), prompt="a red apple", response_format="b64_json", extra_body=extra
        )
        assert found.data
        assert (
            opened(base64.b64decode(found.data[0].b64_json or "")).tobytes()
            == alone(live, **shared).tobytes()
        )
        holes = PIL.Image.new("RGBA", (32, 32), "black")
        holes.paste((0, 0, 0, 0), (0, 0, 16, 32))
        found = client.images.edit(
            image=png(picture()), mask=png(holes), prompt="a red apple", n=2, extra_body=extra
        )
        assert found.data
        assert len(found.data) == 2
        expected = alone(live, **shared, mask=half())
        assert opened(base64.b64decode(found.data[0].b64_json or "")).tobytes() == expected.tobytes()
        with pytest.warns(DeprecationWarning, match="deprecated"):  # theirs
            found = client.images.create_variation(image=png(picture()), n=1, extra_body=extra)
        expected = alone(
            live, prompts="variation", guidance=0, image=picture(), strength=0.6, steps=2, seed=7
        )
        assert found.data
        assert opened(base64.b64decode(found.data[0].b64_json or "")).tobytes() == expected.tobytes()
        with pytest.raises(openai.UnprocessableEntityError, match="nowhere transparent"):
            client.images.edit(image=png(picture()), mask=png(half()), prompt="a red apple")
        with pytest.raises(openai.UnprocessableEntityError, match="no readable picture"):
            client.images.edit(image=b"nothing", prompt="a red apple")


def test_webuiapi_pictures(live: Live) -> None:
    api = webuiapi.WebUIApi(host="127.0.0.1", port=int(live.address.rpartition(":")[2]), steps=2)
    api.session.trust_env = False
    size = {"width": 32, "height": 32}
    how: dict[str, Any] = {"prompt": "a red apple", "seed": 7, "cfg_scale": 3, **size}
    same: dict[str, Any] = {
        "seed": 7,
        "steps": 2,
        "guidance": 3,
        "noise": "philox",
        "prompt_syntax": "a1111",
        "sampler": "euler_a",
    }
    how["sampler_name"] = "Euler a"
    found = api.img2img(images=[picture()], denoising_strength=0.5, **how)
    assert found.image.tobytes() == alone(live, image=picture(), strength=0.5, **same).tobytes()
    found = api.img2img(
        images=[picture()],
        mask_image=half(),
        mask_blur=0,
        inpainting_fill=1,
        inpaint_full_res=False,
        denoising_strength=1,
        **how,
    )
    expected = alone(live, image=picture(), mask=half(), strength=1, **same)
    assert found.image.tobytes() == expected.tobytes()
    # only what the mask holds is drawn, in full size, and laid back: the rest is as it was
    found = api.img2img(images=[picture((64, 64))], mask_image=half((64, 64)), mask_blur=0, **how)
    assert found.image.size == (64, 64)
    assert np.array_equal(np.asarray(found.image)[:, 32:], np.asarray(picture((64, 64)))[:, 32:])
    assert not np.array_equal(np.asarray(found.image)[:, :32], np.asarray(picture((64, 64)))[:, :32])
    assert "Seed: 7" in found.image.info["parameters"]
    found = api.txt2img(enable_hr=True, hr_scale=2, denoising_strength=0.6, **how)
    large = {"width": 64, "height": 64, "hires_from": (32, 32), "hires_by": "latents", "strength": 0.6}
    assert found.image.tobytes() == alone(live, **large, **same).tobytes()
    found = api.txt2img(tiling=True, **how)
    assert found.image.tobytes() == alone(live, wrap="xy", **size, **same).tobytes()
    found = api.txt2img(subseed=5, subseed_strength=0.3, **how)
    assert found.image.tobytes() == alone(live, vary=0.3, vary_seed=5, **size, **same).tobytes()
    assert [found["name"] for found in api.get_upscalers()] == [RESTORER]
    assert api.extra_single_image(picture(), upscaler_1=RESTORER, upscaling_resize=2).image.size == (64, 64)
    with pytest.raises(RuntimeError, match="there are photo"):
        api.extra_single_image(picture(), upscaler_1="R-ESRGAN 4x+")
    for wrong in ({"resize_mode": 3}, {"inpainting_fill": 2}, {"images": []}, {"mask_blur": -1}):
        with pytest.raises(RuntimeError, match="422"):
            api.img2img(**{"images": [picture()], **how, **wrong})
    api.session.close()


def test_a_restoration_is_one_request() -> None:
    asked = Restoration(task="denoise", image=picture(), samples=2)
    assert (asked.pictures, asked.size(), asked.passes) == (4, (32, 32), 60)
    asked = Restoration(task="upscale", image=picture())
    assert (asked.pictures, asked.size(), asked.passes) == (1, (64, 64), 30)
    assert Restoration(task="upscale", image=picture(), jacobian=True).drawn == 1
