"""Asks a chain with tritonclient.http, unmodified.

Usage: triton_http.py MODE HOST:PORT MODEL INPUTS OUTPUTS

INPUTS and OUTPUTS are folders: a file NAME.raw with the bytes of each tensor, and `index`, a line "NAME DTYPE SHAPE" for
each. Ends with a traceback where anything is not as it should be.
"""

import asyncio
import pathlib
import sys

import numpy as np
import tritonclient.http as http
import tritonclient.http.aio as aio
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

mode, url, model, given, answered = sys.argv[1:]


def read(folder):
    for line in (pathlib.Path(folder) / "index").read_text().splitlines():
        name, dtype, shape = line.split(" ")
        shape = [int(dim) for dim in shape.split(",") if dim]
        data = (pathlib.Path(folder) / f"{name}.raw").read_bytes()
        yield name, dtype, np.frombuffer(data, triton_to_np_dtype(dtype)).reshape(shape)


def inputs(binary=True):
    for name, dtype, array in read(given):
        tensor = http.InferInput(name, list(array.shape), dtype)
        # The defaults are what most programs use.
        tensor.set_data_from_numpy(array) if binary else tensor.set_data_from_numpy(array, binary_data=False)
        yield tensor


def write(result, names, dtypes):
    index = []
    for name in names:
        array = result.as_numpy(name)
        assert array is not None, f"no output {name}"
        shape = ",".join(str(dim) for dim in array.shape)
        index.append(f"{name} {dtypes[name]} {shape}\n")
        (pathlib.Path(answered) / f"{name}.raw").write_bytes(np.ascontiguousarray(array).tobytes())
    (pathlib.Path(answered) / "index").write_text("".join(index))


def described(metadata):
    assert metadata["name"] == model and metadata["versions"] == ["1"], metadata
    assert [i["name"] for i in metadata["inputs"]] == [name for name, _, _ in read(given)], metadata
    return {o["name"]: o["datatype"] for o in metadata["outputs"]}


def refused(call, *words):
    try:
        call()
    except InferenceServerException as error:
        assert all(word in str(error) for word in words), error
    else:
        raise AssertionError(f"{words} was not refused")


def synchronous():
    client = http.InferenceServerClient(url, concurrency=8)
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready(model)
    assert not client.is_model_ready("another")
    assert client.get_server_metadata()["name"] == "defer-host"
    dtypes = described(client.get_model_metadata(model))
    names = list(dtypes)
    if mode == "defaults":
        result = client.infer(model, list(inputs()), request_id="7", timeout=60_000_000)
        assert result.get_response()["id"] == "7"
        wrong = list(inputs())
        refused(lambda: client.infer(model, wrong[:-1]), "needs input")
        refused(lambda: client.infer("another", wrong), "unknown model")
        refused(lambda: client.infer(model, wrong, model_version="2"), "unknown version")
        result = client.infer(model, wrong, model_version="1")
    elif mode == "json":
        outputs = [http.InferRequestedOutput(name, binary_data=False) for name in names]
        result = client.infer(model, list(inputs(binary=False)), outputs=outputs)
    elif mode == "chosen":
        # One output in JSON, one in binary, in another order; then all, one by one.
        some = [http.InferRequestedOutput(names[-1], binary_data=False), http.InferRequestedOutput(names[0])]
        result = client.infer(model, list(inputs()), outputs=some)
        assert [o["name"] for o in result.get_response()["outputs"]] == [names[-1], names[0]]
        refused(lambda: client.infer(model, list(inputs()), outputs=[http.InferRequestedOutput("x y")]), "no output")
        result = client.infer(model, list(inputs()), outputs=[http.InferRequestedOutput(name) for name in names])
    elif mode == "threads":
        pending = [client.async_infer(model, list(inputs())) for _ in range(24)]
        results = [one.get_result() for one in pending]
        for name in names:
            first = results[0].as_numpy(name)
            assert all(np.array_equal(first, other.as_numpy(name)) for other in results)
        result = results[-1]
    write(result, names, dtypes)
    client.close()


async def asynchronous():
    async with aio.InferenceServerClient(url) as client:
        assert await client.is_server_ready()
        dtypes = described(await client.get_model_metadata(model))
        results = await asyncio.gather(*(client.infer(model, list(inputs())) for _ in range(8)))
        write(results[0], list(dtypes), dtypes)


if mode == "asyncio":
    asyncio.run(asynchronous())
else:
    synchronous()
