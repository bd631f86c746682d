#!/usr/bin/env python3
"""Prints a CycloneDX bill of materials of the programs: every crate of Cargo.lock that `cargo
metadata` says is built for this target, with licence and checksum. The same tree gives the same
bytes."""

import json
import os
import subprocess
import sys
import tomllib


def main():
    host = subprocess.check_output(["rustc", "-vV"], text=True)
    host = next(line.split()[1] for line in host.splitlines() if line.startswith("host: "))
    command = [os.environ.get("CARGO", "cargo"), "metadata", "--format-version=1", "--locked",
               "--filter-platform", host]
    metadata = json.loads(subprocess.check_output(command))
    with open("Cargo.lock", "rb") as file:
        locked = tomllib.load(file)["package"]
    checksums = {(p["name"], p["version"]): p.get("checksum") for p in locked}
    packages = {package["id"]: package for package in metadata["packages"]}
    built = reachable(metadata["resolve"]["nodes"], metadata["workspace_members"])
    components = []
    for package in sorted((packages[i] for i in built), key=lambda p: (p["name"], p["version"])):
        name, version = package["name"], package["version"]
        ours = package["source"] is None
        component = {
            "type": "application" if ours else "library",
            "name": name,
            "version": version,
            "bom-ref": f"{name}@{version}",
        }
        if package.get("license"):
            component["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
        if not ours:
            component["purl"] = f"pkg:cargo/{name}@{version}"
        if checksums.get((name, version)):
            component["hashes"] = [{"alg": "SHA-256", "content": checksums[name, version]}]
        components.append(component)
    bill = {"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1, "components": components}
    json.dump(bill, sys.stdout, indent=1, sort_keys=True)
    print()


def reachable(nodes, members):
    """Packages that the workspace links, without those for tests alone."""
    edges = {}
    for node in nodes:
        edges[node["id"]] = [
            dep["pkg"] for dep in node["deps"]
            if any(kind["kind"] != "dev" for kind in dep["dep_kinds"])
        ]
    found, todo = set(), list(members)
    while todo:
        package = todo.pop()
        if package not in found:
            found.add(package)
            todo.extend(edges[package])
    return found


if __name__ == "__main__":
    main()
