"""ONNX Runtime, one thread, one network in a loop: what one device does with the usual program.

    onnxruntime_alone.py MODEL.onnx SECONDS SHAPES

Prints one line of JSON with the fields of `defer-lab bench alone`. Inputs are pseudo-random, of the
shapes that SHAPES gives: JSON, {"input": [1, 3, 224, 224]}.
"""
import json
import resource
import sys
import time

import numpy
import onnxruntime

TYPES = {
    "tensor(float)": numpy.float32, "tensor(double)": numpy.float64, "tensor(float16)": numpy.float16,
    "tensor(int64)": numpy.int64, "tensor(int32)": numpy.int32, "tensor(uint8)": numpy.uint8, "tensor(bool)": numpy.bool_,
}
WARM_UP = 2


def main(model, seconds, shapes):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    random = numpy.random.default_rng(0)
    feed = {}
    for one in session.get_inputs():
        feed[one.name] = random.random(shapes[one.name]).astype(TYPES[one.type])
    for _ in range(WARM_UP):
        session.run(None, feed)
    times, before, faults, start = [], time.process_time(), major_faults(), time.perf_counter()
    while time.perf_counter() - start < seconds:
        began = time.perf_counter()
        session.run(None, feed)
        times.append(time.perf_counter() - began)
    elapsed, cpu = time.perf_counter() - start, time.process_time() - before
    usage = resource.getrusage(resource.RUSAGE_SELF)
    times.sort()
    at = lambda share: times[max(-(-len(times) * share // 100) - 1, 0)] * 1e3
    print(json.dumps({
        "inferences": len(times), "seconds": elapsed, "cpu_ms_per_inference": cpu * 1e3 / len(times), "p50_ms": at(50),
        "p99_ms": at(99), "peak_memory_mb": usage.ru_maxrss / 1024,
        "major_faults_per_inference": (major_faults() - faults) / len(times),
    }), flush=True)


def major_faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt


main(sys.argv[1], float(sys.argv[2]), json.loads(sys.argv[3]))
