"""Waits before the first task of each entry until the entry's gate, a FIFO, is opened. A task
that would restart the machine, and wait for that, is written down instead."""

import os

from ansible.plugins.callback import CallbackBase
from ansible.plugins.loader import action_loader, connection_loader, module_loader, shell_loader

REBOOT = ('reboot', 'ansible.builtin.reboot', 'ansible.legacy.reboot')


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = 'aggregate'
    CALLBACK_NAME = 'vmctl_gates'
    CALLBACK_NEEDS_ENABLED = True
    CALLBACK_NEEDS_WHITELIST = True

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.entry = None
        # Programs of the tree need not know.
        self.gates, self.connection = os.environ.pop('VMCTL_GATES'), os.environ.pop('VMCTL_CONNECTION')

    def v2_playbook_on_start(self, playbook):
        # Each task has a process of its own, a fork of this one. What is loaded here it need
        # not load again.
        connection_loader.get(self.connection, class_only=True)
        shell_loader.get('sh', class_only=True)
        action_loader.get('vmctl', class_only=True)
        action_loader.get('ansible.legacy.copy', class_only=True)
        module_loader.find_plugin('vmctl')

    def v2_playbook_on_task_start(self, task, is_conditional):
        entry = task.get_vars().get('vmctl_number', self.entry)
        if entry != self.entry:
            self.entry = entry
            with open(os.path.join(self.gates, str(entry)), 'rb') as gate:
                gate.read()
        if task.action not in REBOOT:
            return
        if self.connection == 'vmctl_guest':  # where there is no stand-in to write it down
            task.action, task.args = 'ansible.builtin.debug', {'msg': 'The image restarts when it is used.'}
        else:
            task.action, task.args = 'ansible.builtin.command', {'argv': ['reboot']}
