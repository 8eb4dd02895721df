"""Real peers of the gateway's tests: gRPC by grpcio, websockets by the package of that name.

grpc-server | websocket-server   print their port and serve until killed
grpc-server CERT KEY             the same over TLS
grpc-client PORT | websocket-client PORT   go through the gateway, print one JSON object
"""

import asyncio
import json
import sys
import time
from concurrent import futures


def grpc_server(cert=None, key=None):
    import grpc

    def unary(request, context):
        if request == b"fail":
            context.set_trailing_metadata((("x-why", "asked"),))
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not now: 100%")
        context.send_initial_metadata((("x-head", "yes"),))
        context.set_trailing_metadata((("x-tail", "yes"),))
        return request + b"!"

    def down(request, context):
        for number in range(int(request)):
            yield str(number).encode()

    def up(requests, context):
        return str(sum(len(request) for request in requests)).encode()

    def both(requests, context):
        for request in requests:
            yield request.upper()

    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Down": grpc.unary_stream_rpc_method_handler(down),
        "Up": grpc.stream_unary_rpc_method_handler(up),
        "Both": grpc.stream_stream_rpc_method_handler(both),
    }
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("demo.Echo", handlers),))
    if cert is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        with open(cert, "rb") as chain, open(key, "rb") as private:
            credentials = grpc.ssl_server_credentials([(private.read(), chain.read())])
        port = server.add_secure_port("127.0.0.1:0", credentials)
    print(port, flush=True)
    server.start()
    server.wait_for_termination()


def grpc_client(port):
    import grpc

    seen = {}
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        unary = channel.unary_unary("/demo.Echo/Unary")
        answer, call = unary.with_call(b"hello", timeout=10)
        tail = dict(call.trailing_metadata())
        seen["unary"] = [answer.decode(), dict(call.initial_metadata()).get("x-head"), tail.get("x-tail")]
        for name, path, payload in [("fail", "/demo.Echo/Unary", b"fail"), ("refused", "/nowhere.Echo/Unary", b"x")]:
            try:
                channel.unary_unary(path)(payload, timeout=10)
            except grpc.RpcError as error:
                why = dict(error.trailing_metadata() or ()).get("x-why")
                seen[name] = [error.code().name, error.details(), why]
        seen["down"] = len(list(channel.unary_stream("/demo.Echo/Down")(b"200", timeout=10)))
        pieces = (b"x" * 10_000 for _ in range(100))
        seen["up"] = int(channel.stream_unary("/demo.Echo/Up")(pieces, timeout=20))
        # one message at a time, each answered before the next is sent
        got = []

        def questions():
            for word in ["a", "b", "c"]:
                while len(got) < "abc".index(word):
                    time.sleep(0.01)
                yield word.encode()

        for reply in channel.stream_stream("/demo.Echo/Both")(questions(), timeout=10):
            got.append(reply.decode())
        seen["both"] = got
        calls = [unary.future(str(number).encode(), timeout=20) for number in range(200)]
        seen["many"] = sum(call.result() == f"{number}!".encode() for number, call in enumerate(calls))
    print(json.dumps(seen), flush=True)


async def websocket_server():
    from websockets.asyncio.server import serve

    async def echo(connection):
        async for message in connection:
            await connection.send(message)

    async with serve(echo, "127.0.0.1", 0, subprotocols=["demo"]) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()


async def websocket_client(port):
    from websockets.asyncio.client import connect

    async with connect(f"ws://127.0.0.1:{port}/chat", subprotocols=["demo"], max_size=None) as connection:
        seen = {"subprotocol": connection.subprotocol}
        sent = ["text", b"\x00binary", "x" * 300_000]
        for message in sent:
            await connection.send(message)
        seen["echoed"] = [await connection.recv() for _ in sent] == sent
        await (await connection.ping())
        await connection.close(4000, "done")
        seen["code"] = connection.close_code
    print(json.dumps(seen), flush=True)


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    if what.startswith("grpc"):
        {"grpc-server": grpc_server, "grpc-client": grpc_client}[what](*rest)
    else:
        asyncio.run({"websocket-server": websocket_server, "websocket-client": websocket_client}[what](*rest))
