"""Waits before the first task of each entry until the entry's gate, a FIFO, is opened. A task
that would restart the machine, and wait for that, is written down instead, and so is one that
asks the kernel, which is the builder's, for its modules; a program that a command calls by its
path is its stand-in; facts that a task registers are the machine's. Handlers are no different.
Differences are told as documents, like all else that happens."""

import json
import os
import re

from ansible import constants as C
from ansible.errors import AnsibleError
from ansible.parsing.dataloader import DataLoader
from ansible.parsing.vault import is_encrypted_file
from ansible.plugins.callback import CallbackBase
from ansible.plugins.loader import action_loader, connection_loader, module_loader, shell_loader

try:
    from ansible.template import is_trusted_as_template, trust_as_template
except ImportError:  # before 2.19, where all text is that is not unsafe

    def is_trusted_as_template(text):
        return not getattr(text, '__UNSAFE__', False)

    def trust_as_template(text):
        return text

TEMPLATE = ('template', 'ansible.builtin.template', 'ansible.legacy.template')
COPY = ('copy', 'ansible.builtin.copy', 'ansible.legacy.copy')
MODPROBE = ('modprobe', 'community.general.modprobe')
FACTS = tuple(prefix + name for name in ('setup', 'gather_facts') for prefix in ('', 'ansible.builtin.', 'ansible.legacy.'))
OURS = 'ansible.legacy.vmctl'  # whatever collections a role is looked for in
COMMAND = tuple(prefix + name for name in ('command', 'shell') for prefix in ('', 'ansible.builtin.', 'ansible.legacy.'))
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
        self.stand_ins, stood_for = os.environ.pop('VMCTL_STAND_INS', None), os.environ.pop('VMCTL_STOOD_FOR', '').split()
        self.by_path = re.compile(r'\s*(?:/usr)?/s?bin/(%s)(?!\S)' % '|'.join(map(re.escape, stood_for)))

    def v2_playbook_on_start(self, playbook):
        # Each task has a process of its own, a fork of this one. What is loaded here it need
        # not load again.
        connection_loader.get(self.connection, class_only=True)
        shell_loader.get('sh', class_only=True)
        shell_loader.get('vmctl', class_only=True).stand_ins = self.stand_ins
        action_loader.get('vmctl', class_only=True)
        action_loader.get('ansible.legacy.copy', class_only=True)
        module_loader.find_plugin('vmctl')

    def v2_playbook_on_task_start(self, task, is_conditional):
        entry = task.get_vars().get('vmctl_number', self.entry)
        if entry != self.entry:
            self.entry = entry
            with open(os.path.join(self.gates, str(entry)), 'rb') as gate:
                gate.read()
        self._replace(task)

    def v2_playbook_on_handler_task_start(self, task):
        self._replace(task)

    def _replace(self, task):
        """Gives a task another action, by which its arguments are rendered like those of any."""
        if task.action in REBOOT and self._in_guest():
            task.action, task.args = 'ansible.builtin.debug', {'msg': 'The image restarts when it is used.'}
        elif task.action in REBOOT:
            task.action, task.args = 'ansible.builtin.command', {'argv': ['reboot']}
        elif task.action in MODPROBE and not self._in_guest():
            task.action, task.args = OURS, dict(task.args, part='modprobe')
        elif task.action in FACTS and task.register and not task.async_val:
            task.action, task.args = OURS, dict(task.args, part='setup')
        elif task.action in COMMAND and self.stand_ins and not self._in_guest():
            task.args = {name: self._called(value) if name in ('_raw_params', 'cmd', 'argv') else value for name, value in task.args.items()}

    def _called(self, command):
        """A command that begins with a program by its path, with the stand-in in its place."""
        if isinstance(command, list):
            return [self._called(word) for word in command[:1]] + command[1:]
        found = self.by_path.match(command) if isinstance(command, str) and is_trusted_as_template(command) else None
        return trust_as_template('%s/%s%s' % (self.stand_ins, found.group(1), command[found.end():])) if found else command

    def _in_guest(self):
        """Whether there is no stand-in to write anything down."""
        return self.connection == 'vmctl_guest'

    def v2_on_file_diff(self, result):
        told = result._result
        if told.get('changed') and told.get('diff'):
            diff = told['diff'] if isinstance(told['diff'], list) else [told['diff']]
            text = self._get_diff([self._shown(result, one) for one in diff])
            if text.strip():
                self._display.display(json.dumps({'_event': 'vmctl_diff', 'diff': text}))

    def _shown(self, result, diff):
        """A difference by the file's own name, where a module has written down that of Ansible's.
        There it puts what it has decrypted, too: that is not shown."""
        if not str(diff.get('after_header', '')).startswith(C.DEFAULT_LOCAL_TMP):
            return diff
        task = result._task
        name = diff.get('before_header') or result._result.get('dest') or task.args.get('dest')
        if task.action in COPY and task.args.get('src') or task.action in TEMPLATE and self._encrypted(task):
            return {'prepared': '%s: it is encrypted\n' % name}
        return dict(diff, before_header=name, after_header=name)

    @staticmethod
    def _encrypted(task):
        try:
            with open(DataLoader().path_dwim_relative_stack(task.get_search_path(), 'templates', task.args['src']), 'rb') as file:
                return is_encrypted_file(file)
        except (AnsibleError, KeyError, OSError):  # its name is a template, too
            return False
