"""DEFER's method (arXiv 2201.06769) on current TensorFlow/Keras, as the peer to measure against.

Written from the paper: a Keras network is cut at its residual sums (DEFER's own choice for ResNet50 on 8 nodes: add_2, add_4 …
add_14), one process per node holds one part, nodes are chained over TCP, every hop is ZFP (reversible), then LZ4.

    defer_keras.py node --index I --nodes N --model ResNet50 --codec C --listen HOST:PORT --next HOST:PORT [--group DIR]…
    defer_keras.py feed --nodes N --model ResNet50 --codec C --first HOST:PORT --listen HOST:PORT --seconds S --in-flight K

Codecs: zfp+lz4 as the released DEFER calls them, on (1, H, W, C); zfp3d+lz4 on (H, W, C), which is kinder to ZFP; raw.
A node prints "listening node HOST:PORT" once its part is loaded and traced, and then joins the control groups. Node and feed
print one line of JSON at their end.
"""
import argparse
import json
import os
import queue
import resource
import socket
import struct
import threading
import time


def codec(kind):
    import numpy as np
    if kind == "raw":
        head = struct.Struct("<5I")

        def encode(a):
            shape = list(a.shape) + [0] * (4 - a.ndim)
            return head.pack(a.ndim, *shape) + np.ascontiguousarray(a).tobytes()

        def decode(b):
            rank, *shape = head.unpack_from(b)
            return np.frombuffer(b, np.float32, offset=head.size).reshape(shape[:rank])
        return encode, decode
    import lz4.frame
    import zfpy
    if kind == "zfp3d+lz4":
        return (lambda a: lz4.frame.compress(zfpy.compress_numpy(np.ascontiguousarray(a[0]))),
                lambda b: zfpy.decompress_numpy(lz4.frame.decompress(b))[None])
    if kind == "zfp+lz4":
        return (lambda a: lz4.frame.compress(zfpy.compress_numpy(a)),
                lambda b: zfpy.decompress_numpy(lz4.frame.decompress(b)))
    raise SystemExit(f"unknown codec {kind}")


def send(s, b):
    s.sendall(struct.pack(">Q", len(b)))
    s.sendall(b)


def receive(s):
    def exact(n):
        buffer = bytearray(n)
        view = memoryview(buffer)
        while view:
            got = s.recv_into(view)
            if not got:
                raise EOFError
            view = view[got:]
        return bytes(buffer)
    return exact(struct.unpack(">Q", exact(8))[0])


def address(text):
    host, port = text.rsplit(":", 1)
    return host, int(port)


def connect(to):
    while True:
        try:
            return socket.create_connection(to)
        except ConnectionRefusedError:
            time.sleep(0.05)


def load(name):
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import tensorflow as tf
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.keras.utils.set_random_seed(7)
    return tf, getattr(tf.keras.applications, name)(weights=None)


def cuts(model, n):
    adds = [layer.name for layer in model.layers if layer.__class__.__name__ == "Add"]
    if len(adds) >= n:
        step = len(adds) / n
        return [adds[int(step * (i + 1)) - 1] for i in range(n - 1)]
    layers = [layer.name for layer in model.layers if layer.__class__.__name__ in ("Conv2D", "MaxPooling2D", "Dense")]
    return [layers[len(layers) * (i + 1) // n] for i in range(n - 1)]


def part(tf, model, i, n):
    at = cuts(model, n)
    source = model.input if i == 0 else model.get_layer(at[i - 1]).output
    target = model.output if i == n - 1 else model.get_layer(at[i]).output
    return tf.keras.Model(source, target)


def node(args):
    tf, model = load(args.model)
    piece = part(tf, model, args.index, args.nodes)
    compute = tf.function(lambda x: piece(x, training=False))
    compute(tf.zeros([1] + list(piece.input_shape[1:])))
    encode, decode = codec(args.codec)
    server = socket.create_server(address(args.listen))
    print(f"listening node {args.listen}", flush=True)
    out, inlet = connect(address(args.next)), server.accept()[0]
    for group in args.group:
        with open(os.path.join(group, "cgroup.procs"), "w") as procs:
            procs.write(str(os.getpid()))
    # A bound, so that a node never holds more than a few frames.
    waiting = queue.Queue(4)

    def read():
        try:
            while True:
                waiting.put(decode(receive(inlet)))
        except EOFError:
            pass
        finally:  # the end, or an error, which then ends this node too
            waiting.put(None)
    threading.Thread(target=read, daemon=True).start()
    started, sent, frames = time.process_time(), 0, 0
    while (x := waiting.get()) is not None:
        b = encode(compute(tf.convert_to_tensor(x)).numpy())
        send(out, b)
        sent, frames = sent + len(b), frames + 1
    out.close()
    print(json.dumps({
        "cpu_ms_per_inference": (time.process_time() - started) * 1e3 / max(frames, 1),
        "bytes_per_inference": sent / max(frames, 1),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }), flush=True)


def feed(args):
    import numpy as np
    encode, decode = codec(args.codec)
    server = socket.create_server(address(args.listen))
    first, back = connect(address(args.first)), server.accept()[0]
    x = np.random.default_rng(0).random((1, 224, 224, 3), dtype=np.float32)
    stop, places, begun = threading.Event(), threading.Semaphore(args.in_flight), queue.SimpleQueue()

    def write():
        while True:
            places.acquire()
            if stop.is_set():
                break
            begun.put(time.perf_counter())
            send(first, encode(x))
        first.shutdown(socket.SHUT_WR)
    threading.Thread(target=write, daemon=True).start()

    def answer():
        decode(receive(back))
        took = time.perf_counter() - begun.get()
        places.release()
        return took
    for _ in range(args.in_flight):  # fills the chain
        answer()
    times, start = [], time.perf_counter()
    while time.perf_counter() - start < args.seconds:
        times.append(answer())
    elapsed = time.perf_counter() - start
    stop.set()
    places.release()
    try:
        while True:
            receive(back)
    except EOFError:
        pass
    times.sort()
    at = lambda share: times[max(-(-len(times) * share // 100) - 1, 0)] * 1e3
    print(json.dumps({"throughput_rps": len(times) / elapsed, "p50_ms": at(50), "p99_ms": at(99), "codec": args.codec}), flush=True)


def main():
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(required=True)
    for name, run in (("node", node), ("feed", feed)):
        command = commands.add_parser(name)
        command.set_defaults(run=run)
        command.add_argument("--nodes", type=int, required=True)
        command.add_argument("--model", default="ResNet50")
        command.add_argument("--codec", default="zfp+lz4")
        command.add_argument("--listen", required=True)
        if name == "node":
            command.add_argument("--index", type=int, required=True)
            command.add_argument("--next", required=True)
            command.add_argument("--group", action="append", default=[])
        else:
            command.add_argument("--first", required=True)
            command.add_argument("--seconds", type=float, default=30)
            command.add_argument("--in-flight", type=int, default=16)
    args = parser.parse_args()
    args.run(args)


main()
