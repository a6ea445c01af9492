"""The files around the code: compose, images, topics, addresses, and what the README must name."""

import json
import re

import yaml
from jsonschema import Draft202012Validator

from stream.__main__ import COMMANDS
from stream.config import SETTING_NAMES
from stream.topics import read_topics
from tests.architecture.project import ROOT, tracked_files

# Split, so that this file does not name them.
REGISTRY_HOSTS = re.compile("|".join(["pypi[.]org", "python[h]osted", "npmjs[.]org", "repo1?[.]maven", "crates[.]io"]))


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_no_file_names_a_registry_or_this_machine() -> None:
    found = []
    for path in tracked_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        name = path.relative_to(ROOT).as_posix()
        patterns = [REGISTRY_HOSTS, re.compile("/" + "work/"), re.compile(r"\.\./" + "shared")]
        found += [f"{name}: {match[0]}" for pattern in patterns for match in pattern.finditer(text)]
    assert found == []


def test_every_image_is_pinned_by_its_full_version() -> None:
    services = yaml.safe_load(text_of("docker-compose.yml"))["services"]
    images = [service["image"] for service in services.values()]
    images += re.findall(r"(?m)^FROM (\S+)", text_of("Dockerfile"))
    for image in images:
        assert re.fullmatch(r"[a-z/]+:[0-9]+\.[0-9]+\.[0-9]+(-[a-z0-9-]+)?", image), image


def test_compose_has_every_part_with_a_health_check_and_waits_for_it() -> None:
    services = yaml.safe_load(text_of("docker-compose.yml"))["services"]
    assert {"kafka", "mariadb", "memcached", "worker"} <= services.keys()
    for name in ("kafka", "mariadb", "memcached", "worker"):
        assert services[name]["healthcheck"]["test"], name
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            is_checked = "healthcheck" in services[other]
            expected = "service_healthy" if is_checked else "service_completed_successfully"
            assert how["condition"] == expected, f"{name} waits for {other}"
    assert services["topics"]["command"] == ["topics", "apply"]
    assert services["database"]["command"] == ["db", "upgrade"]


def test_compose_uses_only_settings_and_commands_that_exist() -> None:
    services = yaml.safe_load(text_of("docker-compose.yml"))["services"]
    for name, service in services.items():
        ours = {key for key in service.get("environment", {}) if key.startswith("TOUCHSTREAM_")}
        assert ours <= set(SETTING_NAMES), name
        if service["image"].startswith("touchstream:"):
            assert service["command"][0] in COMMANDS, name


def test_every_published_port_is_of_this_machine_alone() -> None:
    services = yaml.safe_load(text_of("docker-compose.yml"))["services"]
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_image_runs_our_command_from_the_lock_and_not_as_root() -> None:
    lines = text_of("Dockerfile").splitlines()
    assert 'ENTRYPOINT ["python", "-m", "stream"]' in lines
    installed = [line for line in lines if line.startswith("RUN pip install") and line.endswith("-r requirements.lock")]
    assert installed
    assert all("--require-hashes" in line for line in installed)
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users
    assert users[-1] not in {"0", "root"}


def test_every_schema_is_valid_and_used_and_every_topic_has_what_it_names() -> None:
    folder = ROOT / "stream" / "wire" / "schemas"
    schemas = {path.name.removesuffix(".schema.json"): path for path in folder.glob("*.json")}
    for path in schemas.values():
        Draft202012Validator.check_schema(json.loads(path.read_text(encoding="utf-8")))
    assert {spec.schema for spec in read_topics() if spec.schema} == set(schemas)


def test_the_readme_names_every_setting_and_command() -> None:
    readme = text_of("README.md")
    settings = [name for name in SETTING_NAMES if not re.search(rf"{name}\b(?!_)", readme)]
    commands = [name for name in COMMANDS if not re.search(rf"(stream |`){name}\b", readme)]
    assert settings + commands == []


def test_every_make_target_of_the_contract_is_there() -> None:
    targets = set(re.findall(r"(?m)^([a-z-]+):", text_of("Makefile")))
    wanted = "setup demo test test-full check bench bench-check simulate faults clean help"
    assert set(wanted.split()) <= targets
