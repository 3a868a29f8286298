"""What draws beside a model, over HTTP: LoRAs, textual inversions, ControlNets, refiners, by name."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import webuiapi
from tests.server.conftest import Live, run
from tests.server.stock import stock
from tests.server.test_tasks_over_http import done, opened, over, picture, png, text

from calotype.models.latent_diffusion import LatentDiffusion
from calotype.server.settings import Settings

ASKED: dict[str, Any] = {"prompts": "a red apple", "steps": 2, "seed": 7, "prompt_syntax": "a1111"}
CONTROL: dict[str, Any] = {"net": "canny", "scale": 0.8, "end": 0.5}


@pytest.fixture(scope="module")
def served(tiny_model: LatentDiffusion, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """See `stock`."""
    models, folder = stock(tmp_path_factory.mktemp("stock"), tiny_model)
    yield from run(Settings(tmp_path_factory.mktemp("data"), models, "tiny", threads=1, folder=folder))


@pytest.fixture
def http(served: Live) -> Iterator[httpx.Client]:
    with served.client() as http:
        yield http


def alone(served: Live, **fields: Any) -> bytes:
    """The pixels of the request made in Python, with paths."""
    prompts, model = fields.pop("prompts"), fields.pop("model", "tiny")
    return served.desk.models.get(model).pictures(prompts, **fields)[0].image.tobytes()


def place(served: Live, name: str) -> str:
    folder = served.desk.settings.folder
    assert folder is not None
    return str(folder / f"{name}.safetensors")


def test_what_there_is(http: httpx.Client) -> None:
    listed = http.get("/v1/addons").json()["data"]
    assert [(one["name"], one["kind"]) for one in listed] == [
        *(("canny", "control"), ("easy", "embedding"), ("style/flat", "lora"))
    ]


@pytest.mark.parametrize("name", ["flat", "style/flat", "flat.safetensors"])
def test_a_lora_by_name(http: httpx.Client, served: Live, name: str) -> None:
    (found,) = done(http, **ASKED, loras=[f"{name}:0.8"])
    path = place(served, "style/flat")
    assert found.tobytes() == alone(served, **ASKED, loras=[f"{path}:0.8"])
    assert found.tobytes() != alone(served, **ASKED)


def test_a_lora_in_the_prompt(http: httpx.Client, served: Live) -> None:
    """In every dialect, two weights in one batch, and no place of a file anywhere."""
    fields = {**ASKED, "prompts": ["a red apple <lora:flat:0.8>", "a red apple <lora:flat:-0.5>"]}
    job = over(http, http.post("/v1/jobs", json=fields).json())
    path = place(served, "style/flat")
    for index, weight in enumerate((0.8, -0.5)):
        expected = alone(served, **{**ASKED, "seed": 7 + index}, loras=[f"{path}:{weight}"])
        data = http.get(job["pictures"][index]["url"]).content
        assert opened(data).tobytes() == expected
        assert b"flat.safetensors" in data
        assert path.encode() not in data
    assert str(served.desk.settings.folder) not in json.dumps(job)
    assert job["request"]["loras"][0]["file"] == "flat.safetensors"
    again = {**ASKED, "prompts": job["pictures"][0]["prompt"], "loras": job["request"]["loras"]}
    (found,) = done(http, **again)  # what a job tells makes it again
    assert found.tobytes() == alone(served, **ASKED, loras=[f"{path}:0.8"])
    body = {"prompt": "a red apple <lora:flat:0.8>", "steps": 1, "width": 32, "height": 32}
    assert http.post("/sdapi/v1/txt2img", json=body).status_code == 200


def test_a_textual_inversion(http: httpx.Client, served: Live) -> None:
    (found,) = done(http, **{**ASKED, "prompts": "an easy apple"}, embeddings=["easy"])
    expected = alone(served, **{**ASKED, "prompts": "an easy apple"}, embeddings=[place(served, "easy")])
    assert found.tobytes() == expected
    assert found.tobytes() != alone(served, **{**ASKED, "prompts": "an easy apple"})


def test_a_controlnet(http: httpx.Client, served: Live) -> None:
    """Its picture as base64 and as part of a form; kept as long as the job needs it."""
    asked = {**ASKED, "model": "sd15", "width": 24, "height": 16}
    guided = [{**CONTROL, "net": place(served, "canny"), "picture": picture((24, 16))}]
    expected = alone(served, **asked, controls=guided)
    (found,) = done(http, **asked, controls=[{**CONTROL, "picture": text(picture((24, 16)))}])
    assert found.tobytes() == expected
    assert found.tobytes() != alone(served, **asked)
    body = {"request": json.dumps({**asked, "count": 2, "controls": [CONTROL]})}
    job = http.post("/v1/jobs", data=body, files={"control-0": png(picture((24, 16)))}).json()
    end = over(http, job)
    assert opened(http.get(end["pictures"][0]["url"]).content).tobytes() == expected
    assert (end["request"]["controls"][0]["net"], end["request"]["controls"][0]["picture"]["path"]) == (
        "canny.safetensors",
        "",
    )
    assert not list((served.desk.store.folder / "uploads").iterdir())


def test_a_refiner(http: httpx.Client, served: Live) -> None:
    fields = {**ASKED, "steps": 4, "refiner_at": 0.5}
    (found,) = done(http, **fields, refiner="second")
    path = str(served.desk.models.named("second").path)
    assert found.tobytes() == alone(served, **fields, refiner=path)
    assert served.desk.models.without_places(f"{path} is lost") == "second.safetensors is lost"


def test_a_refiner_as_automatic1111_names_it(http: httpx.Client, served: Live) -> None:
    body = {"prompt": "a red apple", "steps": 4, "seed": 7, "sampler_name": "Euler", "cfg_scale": 3}
    body |= {"width": 32, "height": 32, "refiner_checkpoint": "second [abc]", "refiner_switch_at": 0.5}
    same = {"prompts": "a red apple", "steps": 4, "seed": 7, "sampler": "euler", "guidance": 3}
    same |= {"noise": "philox", "prompt_syntax": "a1111", "width": 32, "height": 32}
    refined = {"refiner": str(served.desk.models.named("second").path), "refiner_at": 0.5}
    assert alone(served, **same, **refined) != alone(served, **same)
    answer = http.post("/sdapi/v1/txt2img", json=body).json()
    assert opened(base64.b64decode(answer["images"][0])).tobytes() == alone(served, **same, **refined)
    assert ", Refiner: second [" in json.loads(answer["info"])["infotexts"][0]
    assert "], Refiner switch at: 0.5, " in json.loads(answer["info"])["infotexts"][0]
    begun: dict[str, Any] = {"image": picture((32, 32)), "strength": 0.75}
    image = {**body, "init_images": [text(picture((32, 32)))]}
    answer = http.post("/sdapi/v1/img2img", json=image).json()
    assert opened(base64.b64decode(answer["images"][0])).tobytes() == alone(
        served, **same, **refined, **begun
    )
    for off in ({"refiner_checkpoint": "None"}, {"refiner_switch_at": 1}):
        answer = http.post("/sdapi/v1/txt2img", json=body | off).json()
        assert opened(base64.b64decode(answer["images"][0])).tobytes() == alone(served, **same)
    for wrong, status, told in (
        ({"refiner_checkpoint": "/etc/passwd"}, 404, "no model '/etc/passwd'"),
        ({"refiner_checkpoint": "photo"}, 422, "cannot draw"),
        ({"refiner_switch_at": None}, 422, "refiner_switch_at above 0"),
        ({"refiner_switch_at": 1.5}, 422, "refiner_switch_at above 0"),
        ({"refiner_switch_at": 0.9999}, 422, "has none of the 4 steps"),
    ):
        refused = http.post("/sdapi/v1/txt2img", json=body | wrong)
        assert (refused.status_code, told in refused.text) == (status, True), refused.text
    masked = {**image, "mask": text(picture((32, 32)).convert("L"))}
    refused = http.post("/sdapi/v1/img2img", json=masked)
    assert (refused.status_code, "not with mask" in refused.text) == (422, True), refused.text


@pytest.mark.parametrize(
    ("fields", "status", "told"),
    [
        ({"loras": ["/etc/passwd"]}, 404, "no LoRA '/etc/passwd' here; there are: style/flat"),
        ({"loras": ["../folder/easy"]}, 404, "no LoRA"),
        ({"loras": ["flut"]}, 404, "did you mean"),
        ({"prompts": "an apple <lora:../style/flat:1>"}, 404, "no LoRA"),
        ({"embeddings": ["/etc/hosts:x"]}, 404, "no textual inversion '/etc/hosts'"),
        ({"refiner": "/etc/passwd"}, 404, "no model '/etc/passwd'"),
        ({"refiner": "photo"}, 422, "cannot draw"),
        ({"controls": [{"net": "/etc/passwd", "picture": text(picture())}]}, 404, "no ControlNet"),
        ({"controls": [{"net": "canny", "picture": "/etc/passwd"}]}, 422, "control-0 is no base64"),
        (
            {"controls": [{"net": "canny", "picture": {"path": "/etc/passwd"}}]},
            422,
            "control-0 is no picture",
        ),
        ({"controls": {"0": {"net": "canny", "picture": "/etc/passwd"}}}, 422, "controls"),
        ({"controls": [{"net": "canny"}]}, 422, "picture"),
        ({"controls": ["canny"]}, 422, "controls"),
        ({"model": "tiny", "controls": [{**CONTROL, "picture": text(picture())}]}, 422, "does not fit"),
    ],
)
def test_refused(http: httpx.Client, served: Live, fields: dict[str, Any], status: int, told: str) -> None:
    answer = http.post("/v1/jobs", json={**ASKED, **fields})
    assert (answer.status_code, told in answer.json()["error"]["message"]) == (status, True), answer.text
    assert str(served.desk.settings.folder) not in answer.text


def test_what_does_not_fit_is_the_clients_affair(http: httpx.Client, served: Live) -> None:
    body = {"prompt": "a <lora:flat:1>", "override_settings": {"sd_model_checkpoint": "icons"}, "steps": 1}
    answer = http.post("/sdapi/v1/txt2img", json=body)
    assert answer.status_code == 422
    assert str(served.desk.settings.folder) not in answer.text


def test_webuiapi(served: Live) -> None:
    api = webuiapi.WebUIApi(host="127.0.0.1", port=int(served.address.rpartition(":")[2]), steps=2)
    api.session.trust_env = False
    assert [one["name"] for one in api.get_loras()] == ["flat"]
    assert api.controlnet_model_list() == ["canny"]
    assert api.controlnet_module_list() == ["none"]
    how: dict[str, Any] = {"prompt": "a red apple", "seed": 7, "cfg_scale": 3, "sampler_name": "Euler a"}
    how |= {"width": 24, "height": 16, "override_settings": {"sd_model_checkpoint": "sd15"}}
    how |= {"alwayson_scripts": {}}  # without it, their client keeps the units for every later call
    unit = webuiapi.ControlNetUnit(image=picture((24, 16)), model="canny [abc]", weight=0.8, guidance_end=0.5)
    same = {"steps": 2, "seed": 7, "guidance": 3, "noise": "philox", "prompt_syntax": "a1111"}
    same |= {"prompts": "a red apple", "sampler": "euler_a", "model": "sd15", "width": 24, "height": 16}
    guided = [{**CONTROL, "net": place(served, "canny"), "picture": picture((24, 16))}]
    found = api.txt2img(controlnet_units=[unit], **how)
    assert found.image.tobytes() == alone(served, **same, controls=guided)
    unit.guidance_end = 1.0  # of the one step that is left
    found = api.img2img(images=[picture((24, 16))], denoising_strength=0.5, controlnet_units=[unit], **how)
    begun = {"image": picture((24, 16)), "strength": 0.5}
    guided[0] |= {"end": 1.0}
    assert found.image.tobytes() == alone(served, **same, **begun, controls=guided)
    off = webuiapi.ControlNetUnit(image=picture(), model="canny", enabled=False)
    found = api.txt2img(controlnet_units=[off], **how)
    assert found.image.tobytes() == alone(served, **same)
    for wrong in ({"module": "canny"}, {"model": "None"}, {"control_mode": 1}, {"model": "/etc/passwd"}):
        unit = webuiapi.ControlNetUnit(**{"image": picture((24, 16)), "model": "canny", **wrong})
        with pytest.raises(RuntimeError, match=r"422|404"):
            api.txt2img(controlnet_units=[unit], **how)
    with pytest.raises(RuntimeError, match="422"):
        api.txt2img(**{**how, "alwayson_scripts": {"other": {"args": [1]}}})
    api.session.close()
