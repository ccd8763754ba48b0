"""Ansible's sh, in whose commands the stand-ins come first, also where a task sets PATH."""

from ansible.plugins.shell.sh import ShellModule as Builtin

DOCUMENTATION = """
name: vmctl
short_description: POSIX shell in a tree with stand-ins
description: POSIX shell (/bin/sh), in whose commands the stand-ins come first.
extends_documentation_fragment: [shell_common]
"""


class ShellModule(Builtin):
    stand_ins = None  # their folder, which callback_plugins/vmctl_gates.py tells

    def env_prefix(self, **environment):
        return super().env_prefix(**self.with_stand_ins(environment))

    def with_stand_ins(self, environment):
        if self.stand_ins and environment.get('PATH'):
            return dict(environment, PATH='%s:%s' % (self.stand_ins, environment['PATH']))
        return environment
