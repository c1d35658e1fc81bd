"""The endpoint policy against what SSRF attempts are made of (reference/security-subscriptions.md §3.6)."""

from __future__ import annotations

import ipaddress
import threading
import time

import httpcore2
import pytest

from subscriptions.channels.http import Sender
from subscriptions.endpoints import Endpoint, EndpointPolicy, RefusedEndpoint, public
from tests.subscriptions.hospital import Hospital, Reply

STRICT = EndpointPolicy()

HOSTILE = [
    "http://hospital.example/notify",
    "ftp://hospital.example/",
    "file:///etc/passwd",
    "gopher://hospital.example/",
    "https://",
    "https:///notify",
    "hospital.example/notify",
    "//hospital.example/",
    "https://user:secret@hospital.example/",
    "https://hospital.example@127.0.0.1/",
    "https://127.0.0.1\\@hospital.example/",
    "https://hospital.example:22/",
    "https://hospital.example:0/",
    "https://hospital.example:99999/",
    "https://hospital.example:x/",
    "https://hospital.example/#fragment",
    "https://hospital.example/\r\nHost: x",
    "https://hospital.example/a b",
    "https://hospital.exämple/",
    "https://hospital..example/",
    "https://-hospital.example/",
    "https://127.0.0.1/",
    "https://127.1/",
    "https://0/",
    "https://0.0.0.0/",
    "https://0x7f000001/",
    "https://0x7f.0.0.1/",
    "https://0177.0.0.1/",
    "https://2130706433/",
    "https://127.0.0.1./",
    "https://localhost/",
    "https://LOCALHOST/",
    "https://localhost./",
    "https://x.localhost/",
    "https://[::1]/",
    "https://[::]/",
    "https://[::ffff:127.0.0.1]/",
    "https://[::ffff:7f00:1]/",
    "https://[64:ff9b::7f00:1]/",
    "https://[64:ff9b::10.0.0.1]/",
    "https://[2002:7f00:1::]/",
    "https://[fd00::1]/",
    "https://[fe80::1]/",
    "https://[fe80::1%25eth0]/",
    "https://[ff02::1]/",
    "https://10.1.2.3/",
    "https://172.16.0.1/",
    "https://192.168.1.1/",
    "https://169.254.169.254/latest/meta-data/",
    "https://100.64.0.1/",
    "https://224.0.0.1/",
    "https://255.255.255.255/",
    "https://192.0.0.8/",
    "https://192.88.99.1/",
    "https://8.8.8.8/",
    "https://[2001:4860:4860::8888]/",
]


@pytest.mark.parametrize("url", HOSTILE)
def test_hostile_urls_are_refused(url: str) -> None:
    """§3.6: by the text alone, in every notation that an operating system reads as an address."""
    with pytest.raises(RefusedEndpoint):
        STRICT.check(url)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.0.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "::1", "fd00::1", "fe80::1",
        "::ffff:10.0.0.1", "224.0.0.1", "240.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::1", "2002:7f00:1::", "::7f00:1",
        "192.88.99.1", "192.0.0.9", "198.18.0.1", "203.0.113.5", "ff02::1", "2001::1", "2001:db8::1",
    ],
)  # fmt: skip
def test_what_is_not_public_is_not_public(address: str) -> None:
    """§3.6: is_global and what it lets pass."""
    assert not public(ipaddress.ip_address(address))


def test_a_public_https_url_is_accepted() -> None:
    """Parsed once, to parts that nobody parses again."""
    endpoint = STRICT.check("https://Eai.CH-Exemple.fr/fhir/notify?site=1")
    assert endpoint == Endpoint("https", "eai.ch-exemple.fr", 443, "/fhir/notify?site=1")
    assert public(ipaddress.ip_address("8.8.8.8"))


@pytest.mark.parametrize("answers", [["10.0.0.1"], ["93.184.216.34", "127.0.0.1"], ["::1"], ["fe80::1%eth0"], []])
def test_a_name_that_resolves_to_anything_private_is_refused(answers: list[str]) -> None:
    """§3.6: refuse if any address is not public; mixed answers are an attack."""
    policy = EndpointPolicy(resolver=lambda _host, _port: answers)
    policy.check("https://hospital.example/")
    with pytest.raises(RefusedEndpoint):
        policy.resolve("hospital.example", 443)


def test_a_deployment_lists_its_private_ranges_and_hosts() -> None:
    """Hospitals reached by VPN, ports other than 443, a closed list of partners: all explicit."""
    vpn = EndpointPolicy(
        ports=frozenset({443, 8443}),
        hosts=frozenset({"eai.chu.example", "10.20.0.5"}),
        private_networks=(ipaddress.ip_network("10.20.0.0/16"),),
        resolver=lambda _host, _port: ["10.20.0.5"],
    )
    assert vpn.check("https://eai.chu.example:8443/x").port == 8443
    assert vpn.check("https://10.20.0.5/x").host == "10.20.0.5"
    assert vpn.resolve("eai.chu.example", 8443) == ["10.20.0.5"]
    for url in (
        "https://other.example/",
        "https://10.21.0.5/",
        "https://eai.chu.example:9443/",
        "http://eai.chu.example/",
    ):
        with pytest.raises(RefusedEndpoint):
            vpn.check(url)
    insecure = EndpointPolicy(insecure_hosts=frozenset({"mirth:8080"}))
    assert insecure.check("http://mirth:8080/x").scheme == "http"
    with pytest.raises(RefusedEndpoint):
        insecure.check("http://mirth:8081/x")


def test_the_demonstration_s_loopback_is_loopback_only() -> None:
    """`allow_insecure_loopback` opens this machine and nothing else."""
    demo = EndpointPolicy(allow_insecure_loopback=True)
    assert demo.check("http://127.0.0.1:8000/x").port == 8000
    assert demo.check("http://localhost:8000/x").host == "localhost"
    for url in ("http://10.0.0.1/", "http://169.254.169.254/", "http://hospital.example/"):
        with pytest.raises(RefusedEndpoint):
            demo.check(url)


def test_rebinding_wins_nothing(hospital: Hospital) -> None:
    """§3.6: every connection resolves anew and goes to the checked address; a name that turns private gets nothing."""
    answers = iter([["127.0.0.1"], ["10.0.0.1"], ["169.254.169.254"]])
    policy = EndpointPolicy(allow_insecure_loopback=True, resolver=lambda _host, _port: next(answers))
    endpoint = Endpoint("http", "hospital.example", hospital.port, "/notify")
    hospital.always = Reply(headers=(("Connection", "close"),))
    sender = Sender(policy)
    assert sender.send("POST", endpoint, [], b"{}", timeout_s=5).accepted
    assert hospital.received[0].headers["host"] == f"hospital.example:{hospital.port}"
    for _ in range(2):
        answer = sender.send("POST", endpoint, [], b"{}", timeout_s=5)
        assert answer.status is None
        assert "non-public" in answer.reason
    assert len(hospital.received) == 1
    sender.close()


def test_the_whole_exchange_ends_by_its_deadline(hospital: Hospital) -> None:
    """An endpoint that sends a byte now and then passes every timeout that counts per read; not this one."""
    hospital.always = Reply(body=b"x" * 100, drip_s=0.2)
    sender = Sender(EndpointPolicy(allow_insecure_loopback=True))
    started = time.monotonic()
    answer = sender.send("POST", Endpoint("http", "127.0.0.1", hospital.port, "/"), [], b"{}", timeout_s=1)
    assert answer.status is None
    assert time.monotonic() - started < 10
    sender.close()


def test_an_endless_answer_is_not_read(hospital: Hospital) -> None:
    """At most 4 kB of an answer are read; what the endpoint said by its status still counts."""
    hospital.always = Reply(body=b"x" * 10_000_000)
    sender = Sender(EndpointPolicy(allow_insecure_loopback=True))
    assert sender.send("POST", Endpoint("http", "127.0.0.1", hospital.port, "/"), [], b"{}", timeout_s=5).accepted
    sender.close()


def test_the_environment_s_proxy_is_not_obeyed(hospital: Hospital, monkeypatch: pytest.MonkeyPatch) -> None:
    """trust_env False: HTTP_PROXY would send the notification elsewhere."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    sender = Sender(EndpointPolicy(allow_insecure_loopback=True))
    assert sender.send("POST", Endpoint("http", "127.0.0.1", hospital.port, "/"), [], b"{}", timeout_s=5).accepted
    sender.close()


@pytest.mark.parametrize(("sent", "seconds"), [("7", 7.0), ("0", 0.0), ("-1", None), ("soon", None)])
def test_retry_after_is_understood(hospital: Hospital, sent: str, seconds: float | None) -> None:
    """RFC 9110 §10.2.3."""
    hospital.always = Reply(503, (("Retry-After", sent),))
    sender = Sender(EndpointPolicy(allow_insecure_loopback=True))
    answer = sender.send("POST", Endpoint("http", "127.0.0.1", hospital.port, "/"), [], b"{}", timeout_s=5)
    assert answer.retry_after_s == seconds
    sender.close()


def test_one_sender_serves_many_threads(hospital: Hospital) -> None:
    """Deadlines are per thread."""
    sender = Sender(EndpointPolicy(allow_insecure_loopback=True))
    hospital.always = Reply(stall_s=0.05)
    endpoint = Endpoint("http", "127.0.0.1", hospital.port, "/")
    answers: list[bool] = []

    def post() -> None:
        answers.append(sender.send("POST", endpoint, [], b"{}", timeout_s=20).accepted)

    threads = [threading.Thread(target=post) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [True] * 16
    sender.close()


def test_an_unreachable_endpoint_is_told_without_detail() -> None:
    """What the network says may hold addresses: only its kind goes into Subscription.error."""
    sender = Sender(EndpointPolicy(allow_insecure_loopback=True))
    answer = sender.send("POST", Endpoint("http", "127.0.0.1", 9, "/"), [], b"{}", timeout_s=2)
    assert answer.reason == "the endpoint could not be reached (ConnectError)"
    assert issubclass(httpcore2.ConnectError, httpcore2.NetworkError)
    sender.close()
