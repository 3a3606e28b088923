"""redis-py against Siltstone: both protocol versions, pipelines, transactions, scans. Argument: the port."""
import sys

import redis

PORT = int(sys.argv[1])


def connect(protocol, **options):
    return redis.Redis(port=PORT, protocol=protocol, socket_timeout=60, **options)


def basics(r):
    assert r.ping() is True
    r.flushall()
    assert r.set("plain", "text") is True
    assert r.get("plain") == "text"
    assert r.set("plain", "other", nx=True) is None
    assert r.set("plain", "new", get=True) == "text"
    assert r.set("short", "1", ex=1000) and 990 < r.ttl("short") <= 1000
    assert r.getex("short", persist=True) == "1" and r.ttl("short") == -1
    assert r.mset({"a": 1, "b": 2}) is True
    assert r.mget("a", "b", "missing") == ["1", "2", None]
    assert r.incrby("a", 41) == 42
    assert float(r.incrbyfloat("a", 0.5)) == 42.5
    assert r.append("plain", "er") == 5 and r.getrange("plain", 3, -1) == "er"
    assert r.exists("a", "b", "missing") == 2
    assert r.delete("a", "b", "missing") == 2
    assert r.type("plain") == "string"
    assert r.rename("plain", "renamed") and r.copy("renamed", "copied")
    assert sorted(r.keys("*ed")) == ["copied", "renamed"]
    try:
        r.incr("renamed")
        raise AssertionError("INCR of text")
    except redis.ResponseError as error:
        assert str(error) == "value is not an integer or out of range", error


def pipelines(r):
    with r.pipeline(transaction=False) as pipe:
        for index in range(2000):
            pipe.set(f"pipe:{index}", index)
        assert pipe.execute() == [True] * 2000
    with r.pipeline(transaction=False) as pipe:
        pipe.get("pipe:7").incr("renamed").get("pipe:8")
        first, error, last = pipe.execute(raise_on_error=False)
        assert (first, last) == ("7", "8") and isinstance(error, redis.ResponseError)
    assert {f"pipe:{i}" for i in range(2000)} == set(r.scan_iter(match="pipe:*", count=100))


def transactions(r, other):
    r.set("balance", 10)
    with r.pipeline() as pipe:
        pipe.watch("balance")
        other.incr("balance")
        pipe.multi()
        pipe.set("balance", 0)
        try:
            pipe.execute()
            raise AssertionError("EXEC after a watched key changed")
        except redis.WatchError:
            pass
    assert r.get("balance") == "11"

    def double(pipe):
        value = int(pipe.get("balance"))
        pipe.multi()
        pipe.set("balance", 2 * value).get("balance")

    assert r.transaction(double, "balance") == [True, "22"]


def introspection(r):
    assert r.client_setname("script") and r.client_getname() == "script"
    assert isinstance(r.client_id(), int)
    assert any(client["name"] == "script" for client in r.client_list())
    assert r.info("server")["redis_version"]
    assert r.config_get("appendfsync") == {"appendfsync": "always"}
    assert r.command_count() > 50
    assert r.dbsize() > 2000
    seconds, _microseconds = r.time()
    assert seconds > 1_700_000_000


def binary(protocol):
    r = connect(protocol)
    everything = bytes(range(256)) * 64
    assert r.set(everything, everything) is True
    assert r.get(everything) == everything and r.strlen(everything) == len(everything)
    r.delete(everything)


def databases(protocol):
    first, second = (connect(protocol, db=db, decode_responses=True) for db in (0, 9))
    second.set("only here", "yes")
    assert first.get("only here") is None and second.get("only here") == "yes"
    second.flushdb()
    assert second.dbsize() == 0 and first.dbsize() > 0


for protocol in (2, 3):
    client = connect(protocol, decode_responses=True)
    basics(client)
    pipelines(client)
    transactions(client, connect(protocol))
    introspection(client)
    binary(protocol)
    databases(protocol)
print("redis-py", redis.__version__, "all well")
