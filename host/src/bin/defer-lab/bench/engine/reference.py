"""ONNX Runtime as a Python program uses it: one inference per line on stdin, answered with its CPU time in ns.

Arguments: the model, and a folder with `inputs` (a line `name dtype shape` per tensor) and a raw file for each; the
first results are written there in the same form.
"""

import os
import sys
import time

import numpy
import onnxruntime

model, folder = sys.argv[1:]

# The options of the engine that is compared, spelled out even where they are defaults.
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
options.inter_op_num_threads = 1
options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
options.add_session_config_entry("session.intra_op.allow_spinning", "0")
options.add_session_config_entry("session.inter_op.allow_spinning", "0")
session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

inputs = {}
with open(os.path.join(folder, "inputs")) as lines:
    for line in lines:
        number, name, dtype, shape = line.rstrip("\n").split("\t")
        shape = [int(dim) for dim in shape.split(",") if dim]
        inputs[name] = numpy.fromfile(os.path.join(folder, f"input-{number}"), dtype=dtype).reshape(shape)

outputs = session.run(None, inputs)
with open(os.path.join(folder, "outputs"), "w") as lines:
    for number, (output, value) in enumerate(zip(session.get_outputs(), outputs)):
        value.tofile(os.path.join(folder, f"output-{number}"))
        shape = ",".join(str(dim) for dim in value.shape)
        lines.write(f"{number}\t{output.name}\t{value.dtype}\t{shape}\n")
print("ready", onnxruntime.__version__, flush=True)

for line in sys.stdin:
    del outputs
    started = time.process_time_ns()
    outputs = session.run(None, inputs)
    print(time.process_time_ns() - started, flush=True)
