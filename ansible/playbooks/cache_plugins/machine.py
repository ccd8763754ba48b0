# Facts of the machine that is being built, in place of those of the builder, whoever
# gathers them. _uri is a JSON file with "facts", by their names without ansible_, and with
# the "root" of the tree.
import json
import os
import re

from ansible.plugins.cache import BaseCacheModule

DOCUMENTATION = """
name: machine
short_description: facts of the machine that is being built
description: Facts in memory, with those of the image in place of the builder's.
options:
  _uri:
    required: true
    description: path of a JSON file with facts and root
    env: [{name: ANSIBLE_CACHE_PLUGIN_CONNECTION}]
    ini: [{key: fact_caching_connection, section: defaults}]
  _prefix:
    default: ""
    description: not used
    env: [{name: ANSIBLE_CACHE_PLUGIN_PREFIX}]
  _timeout:
    default: 0
    type: integer
    description: not used
    env: [{name: ANSIBLE_CACHE_PLUGIN_TIMEOUT}]
"""

# What setup finds on the builder, or what is of one machine alone.
BUILDERS = re.compile(
    "^ansible_(bios|board|chassis|product|ssh_host_key|date_time|loadavg|system_capabilities|machine_id"
    "|hostnqn|iscsi_iqn|fibre_channel|nvme|nfs|ec2|locally_reachable|kernel)"
)


class CacheModule(BaseCacheModule):
    _persistent = False  # from Ansible 2.19 on, get and set have the facts themselves then, and no text of them

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._facts = {}
        with open(self.get_option("_uri"), encoding="utf-8") as file:
            self._image = json.load(file)

    def get(self, key):
        facts = self._facts[key]
        return self.machines(facts, any(name.startswith("ansible_") for name in facts))

    def machines(self, facts, prefixed):
        """Facts that were found, by names with ansible_ or without, as the machine's."""
        image = dict(self._kernel(), date_time=self._image["date_time"])
        image.update(self._image["facts"])
        kept = {
            name: value
            for name, value in facts.items()
            if not BUILDERS.match(self._name(name)) and not self._interface(value)
        }
        for name, value in image.items():
            kept["ansible_" + name if prefixed else name] = value
        return kept

    @staticmethod
    def _name(name):
        return name if name.startswith("ansible_") else "ansible_" + name

    @staticmethod
    def _interface(value):
        return isinstance(value, dict) and "device" in value and "promisc" in value

    def _kernel(self):
        """The newest kernel of the tree: the one that it will run."""

        def version(name):
            return [(int(part), "") if part.isdigit() else (-1, part) for part in re.findall("[0-9]+|[^0-9]+", name)]

        try:
            names = os.listdir(os.path.join(self._image["root"], "boot"))
        except OSError:
            names = []
        kernels = sorted((name[len("vmlinuz-"):] for name in names if name.startswith("vmlinuz-")), key=version)
        return {"kernel": kernels[-1], "kernel_version": ""} if kernels else {}

    def set(self, key, value):
        self._facts[key] = value

    def keys(self):
        return self._facts.keys()

    def contains(self, key):
        return key in self._facts

    def delete(self, key):
        self._facts.pop(key, None)

    def flush(self):
        self._facts = {}

    def copy(self):
        return {key: self.get(key) for key in self._facts}
