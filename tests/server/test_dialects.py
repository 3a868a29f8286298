"""The world's clients, unchanged, against a live server; and the native interface as curl would use it."""

from __future__ import annotations

import base64
import io
import json
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import PIL.Image
import pytest
import webuiapi
from sd_parsers import ParserManager
from tests.server.conftest import Live

from calotype.tasks.generate import generate
from calotype.tasks.picture import Picture
from calotype.tasks.request import Request


def alone(live: Live, **fields: object) -> PIL.Image.Image:
    model = live.desk.models.get("tiny").model
    events = generate(model, Request(model="tiny", **fields))
    return next(event.image for event in events if isinstance(event, Picture))


def opened(data: bytes) -> PIL.Image.Image:
    with PIL.Image.open(io.BytesIO(data)) as image:
        image.load()
        return image


@pytest.fixture
def client(live: Live) -> openai.OpenAI:
    http = httpx.Client(trust_env=False)
    return openai.OpenAI(base_url=f"{live.address}/v1", api_key="none", max_retries=0, http_client=http)


def test_openai_generates(live: Live, client: openai.OpenAI) -> None:
    with client:
        found = client.images.generate(
            model="tiny", prompt="a red apple", n=2, size="32x24", extra_body={"seed": 7, "steps": 2}
        )
        assert found.data is not None
        assert len(found.data) == 2
        for i, one in enumerate(found.data):
            image = opened(base64.b64decode(one.b64_json or ""))
            expected = alone(live, prompts="a red apple", seed=7 + i, steps=2, width=32, height=24)
            assert image.tobytes() == expected.tobytes()
            assert httpx.get(one.url or "", trust_env=False).content == base64.b64decode(one.b64_json or "")
        found = client.images.generate(prompt="苹果", response_format="b64_json", output_format="webp")
        assert found.data is not None
        assert found.data[0].url is None
        assert opened(base64.b64decode(found.data[0].b64_json or "")).format == "WEBP"
        assert "tiny" in [model.id for model in client.models.list()]
        assert client.models.retrieve("tiny").owned_by == "calotype"


def test_openai_is_told_what_is_wrong(client: openai.OpenAI) -> None:
    with client:
        with pytest.raises(openai.NotFoundError, match="no model 'gpt-image-2'"):
            client.images.generate(model="gpt-image-2", prompt="a red apple")
        with pytest.raises(openai.UnprocessableEntityError, match="size is 'huge'"):
            client.images.generate(prompt="a red apple", size="huge")  # type: ignore[call-overload]
        with pytest.raises(openai.UnprocessableEntityError, match="count is 0"):
            client.images.generate(prompt="a red apple", n=0)


def test_webuiapi(live: Live) -> None:
    port = int(live.address.rpartition(":")[2])
    api = webuiapi.WebUIApi(host="127.0.0.1", port=port, steps=2)
    api.session.trust_env = False
    result = api.txt2img(
        prompt="a (red:1.2) apple",
        negative_prompt="blue",
        seed=7,
        width=32,
        height=32,
        cfg_scale=3,
        batch_size=2,
        sampler_name="Euler a",
        scheduler="Karras",
    )
    assert result.info["all_seeds"] == [7, 8]
    settings = {
        "prompt_syntax": "a1111",
        "noise": "philox",
        "sampler": "euler_a",
        "grid": "karras",
        "steps": 2,
        "guidance": 3,
        "negative": "blue",
    }
    for i, image in enumerate(result.images):
        expected = alone(live, prompts="a (red:1.2) apple", seed=7 + i, **settings)
        assert image.tobytes() == expected.tobytes()
        assert image.info["parameters"] == result.info["infotexts"][i]
    assert api.png_info(result.image).info == result.info["infotexts"][0]
    assert api.util_get_current_model() == "tiny"
    assert "tiny" in api.util_get_model_names()
    assert "DPM++ 2M" in api.util_get_sampler_names()
    assert "karras" in api.util_get_scheduler_names()
    assert api.set_options({"sd_model_checkpoint": "tiny"}) == {}
    assert api.get_progress()["state"]["job_count"] == 0
    assert api.interrupt() == {}
    assert api.skip() == {}
    assert api.get_loras() == api.get_sd_vae() == []
    assert api.get_memory()["ram"]["peak"] > 0
    for asked in ({"hr_prompt": "x"}, {"styles": ["x"]}, {"sampler_name": "Nobody"}, {"scheduler": "x"}):
        with pytest.raises(RuntimeError, match="422"):
            api.txt2img(prompt="a red apple", **asked)
    with pytest.raises(RuntimeError, match="404"):
        api.txt2img(prompt="a red apple", override_settings={"sd_model_checkpoint": "other"})
    api.session.close()


def test_interrupt_gives_what_there_is(live: Live) -> None:
    """As there: the call returns with the pictures that are finished, and is no error."""
    api = webuiapi.WebUIApi(host="127.0.0.1", port=int(live.address.rpartition(":")[2]), steps=100)
    api.session.trust_env = False
    with ThreadPoolExecutor(1) as pool, live.client() as http:
        asked = {"prompt": "a red apple", "width": 64, "height": 64, "batch_size": 32, "seed": 7}
        answer = pool.submit(api.txt2img, **asked)
        running = {"limit": 1, "state": "running"}
        while not any(job["pictures"] for job in http.get("/v1/jobs", params=running).json()["jobs"]):
            pass
        while (now := api.get_progress())["current_image"] is None:
            assert now["state"]["job_count"]
        assert opened(base64.b64decode(now["current_image"])).format == "JPEG"
        assert api.interrupt() == {}
        result = answer.result(60)
    assert 0 < len(result.images) < 32
    assert len(result.info["infotexts"]) == len(result.images)
    api.session.close()


def test_png_info_and_sd_parsers(live: Live) -> None:
    with live.client() as http:
        body = {"prompt": "a red apple", "seed": 5, "steps": 2, "width": 32, "height": 32}
        picture = http.post("/sdapi/v1/txt2img", json=body).json()["images"][0]
        told = http.post("/sdapi/v1/png-info", json={"image": f"data:image/png;base64,{picture}"}).json()
    assert told["info"].startswith("a red apple\nSteps: 2, Sampler: ")
    assert told["parameters"]["seed"] == 5
    found = ParserManager().parse(io.BytesIO(base64.b64decode(picture)))
    assert found is not None
    assert found.samplers[0].parameters["seed"] == "5"


def test_jobs_over_http(live: Live) -> None:
    """As docs/serve.md does it with curl: submit, watch, fetch, read back, delete."""
    with live.client() as http:
        body = {"prompts": "a red apple", "count": 3, "steps": 4, "seed": 7}
        answer = http.post("/v1/jobs", json=body)
        assert answer.status_code == 202
        job = answer.json()
        assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
        assert job["request"]["model"] == "tiny"
        seen = []
        with http.stream("GET", f"/v1/jobs/{job['id']}/events?previews=true") as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            for line in stream.iter_lines():
                name, _, value = line.partition(": ")
                if name == "event":
                    seen.append((value, None))
                elif name == "data":
                    seen[-1] = (seen[-1][0], json.loads(value))
        names = [name for name, _ in seen]
        assert names[0] == "job"
        assert names[-1] == "end"
        assert names.count("picture") == 3
        end = seen[-1][1]
        assert end is not None
        assert (end["state"], end["progress"]["fraction"], end["position"]) == ("done", 1.0, None)
        assert [picture["seed"] for picture in end["pictures"]] == [7, 8, 9]
        data = http.get(end["pictures"][1]["url"]).content
        expected = alone(live, prompts="a red apple", seed=8, steps=4)
        assert opened(data).tobytes() == expected.tobytes()
        told = http.post("/v1/read", content=data).json()
        assert told["request"]["seed"] == 8
        assert Request(**told["request"]).prompts == ("a red apple",)
        assert http.get("/v1/jobs", params={"limit": 1}).json()["jobs"][0]["id"] == job["id"]
        assert http.post(f"/v1/jobs/{job['id']}/cancel").json()["state"] == "done"
        assert http.delete(f"/v1/jobs/{job['id']}").status_code == 204
        assert http.get(f"/v1/jobs/{job['id']}").status_code == 404
        assert http.get(end["pictures"][1]["url"]).status_code == 404


def test_models_over_http(live: Live) -> None:
    with live.client() as http:
        assert http.post("/v1/models/tiny/load").json()["loaded"] is True
        assert http.post("/v1/models/tiny/unload").json()["loaded"] is False
        listed = http.get("/v1/models").json()
        assert {row["id"]: row["loaded"] for row in listed["data"]}["tiny"] is False
        assert http.get("/v1/models/nothing").status_code == 404


def test_a_client_that_hangs_up_cancels(live: Live) -> None:
    with live.client() as http:
        before = http.get("/v1/jobs", params={"limit": 1}).json()["jobs"][0]["number"]
        body = {"prompt": "a red apple", "n": 64, "size": "128x128", "steps": 100}
        with pytest.raises(httpx.ReadTimeout):
            http.post("/v1/images/generations", json=body, timeout=1)
        (job,) = http.get("/v1/jobs", params={"limit": 1}).json()["jobs"]
        assert job["number"] > before
        for _ in range(200):
            if http.get(f"/v1/jobs/{job['id']}").json()["state"] == "cancelled":
                break
        assert http.get(f"/v1/jobs/{job['id']}").json()["state"] == "cancelled"


def test_health(live: Live) -> None:
    with live.client() as http:
        assert http.get("/healthz").text == "ok\n"
        assert http.get("/readyz").text == "ready\n"
        assert 'calotype_jobs{state="done"}' in http.get("/metrics").text
