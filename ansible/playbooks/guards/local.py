# What Ansible would do on the machine that builds is refused: it is not the image.
from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.connection import ConnectionBase

DOCUMENTATION = """
name: local
short_description: refuses to act on the builder
description: Takes the place of the connection that acts on the machine that builds.
"""

WHY = "it would act on the machine that builds, not on the image; 'vmctl build --allow-localhost' permits it"


class Connection(ConnectionBase):
    transport = "local"
    has_pipelining = True

    def _connect(self):
        raise AnsibleConnectionFailure(WHY)

    def exec_command(self, cmd, in_data=None, sudoable=True):
        raise AnsibleConnectionFailure(WHY)

    def put_file(self, in_path, out_path):
        raise AnsibleConnectionFailure(WHY)

    def fetch_file(self, in_path, out_path):
        raise AnsibleConnectionFailure(WHY)

    def close(self):
        pass
