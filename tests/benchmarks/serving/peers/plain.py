"""What one writes without a framework for models: a FastAPI endpoint on uvicorn."""

from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool

from tests.benchmarks.serving.work import JSON, NPY, PATH, Config, Encoder

_config = Config.read()
_encoder = Encoder(_config.graph)
app = FastAPI()


@app.post(PATH)
async def encode(request: Request) -> Response:
    """The codes of the images in the body."""
    body, media = await request.body(), request.headers["content-type"]
    if _config.settings["threadpool"]:
        answer = await run_in_threadpool(_encoder.answer, body, media)
    else:
        answer = _encoder.answer(body, media)
    return Response(answer, media_type=NPY if media == NPY else JSON)
