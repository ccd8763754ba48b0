"""Applies one part of an entry: renders its values, and has tree.py apply all of its items
to the tree in one call."""

import ast
import json
import marshal
import os
import shlex

from ansible import __version__
from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible.plugins.action.template import ActionModule as Template

# How much of a file goes along with the call, in bytes. What is larger goes ahead of it.
LARGEST = 64 << 10

# What tree.py calls the work of each part.
WORK = {'files': 'files', 'templates': 'files', 'users': 'users', 'services': 'services', 'command': 'command'}

with open(os.path.join(os.path.dirname(os.path.dirname(__file__)), 'tree.py'), encoding='utf-8') as program:
    PROGRAM = program.read()

# Up to 2.18, a text that looks like a list or a mapping once it is rendered becomes one.
AS_IT_IS = {'convert_data': False} if tuple(map(int, __version__.split('.')[:2])) < (2, 19) else {}


class ActionModule(ActionBase):
    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        part = self._task.args['part']
        names, items, failed = [], [], []
        try:
            for name, item in listed(part, task_vars['vmctl_entry']):
                names.append(name)
                items.append(getattr(self, '_' + part)(item, task_vars))
        except AnsibleError as e:
            names, failed = names[-1:], [{'failed': True, 'msg': str(e)}]
        results = failed or self._in_tree(part, items, task_vars)
        self._remove_tmp_path(self._connection._shell.tmpdir)
        if part == 'command':
            return dict(result, **results[0])
        for name, one in zip(names, results):
            one['item'] = name
            if one.get('failed'):
                one['msg'] = '%s: %s' % (name, one['msg'])
                result.update(failed=True, msg=one['msg'])
        return dict(result, results=results, changed=any(one.get('changed') for one in results))

    def _in_tree(self, part, items, task_vars):
        done = self._low_level_execute_command(
            'exec %s -ISB -c %s' % (task_vars['ansible_python_interpreter'], shlex.quote(PROGRAM)),
            in_data=marshal.dumps((WORK[part], items), 2), sudoable=False)
        if done['rc']:
            return [{'failed': True, 'msg': 'MODULE FAILURE', 'module_stdout': done['stdout'], 'module_stderr': done['stderr'], 'rc': done['rc']}]
        return ast.literal_eval(done['stdout'].strip())

    # What tree.py needs of an item.

    def _files(self, item, task_vars):
        file = self._file(item, task_vars)
        if 'source' not in item:
            return dict(file, content=self._text(item.get('content', '')).encode('utf-8', 'surrogateescape'))
        path = self._loader.get_real_file(self._find_needle('files', file['source']), decrypt=True)
        file['name'] = os.path.basename(file['source'])
        if os.path.getsize(path) > LARGEST:
            return dict(file, staged=self._stage(path))
        with open(path, 'rb') as source:
            return dict(file, content=source.read())

    def _templates(self, item, task_vars):
        file = self._file(item, task_vars)
        file['name'] = os.path.basename(file['source'])
        return dict(file, content=Rendering(self).of(file, task_vars))

    def _file(self, item, task_vars):
        values = self._values({key: value for key, value in item.items() if key != 'content'}, task_vars)
        return dict({'mode': '0644', 'owner': 'root', 'group': 'root', 'name': None, 'content': None, 'staged': None}, **values)

    def _stage(self, path):
        shell = self._connection._shell
        if shell.tmpdir is None:
            self._make_tmp_path()
        self._staged = getattr(self, '_staged', 0) + 1
        return self._transfer_file(path, shell.join_path(shell.tmpdir, str(self._staged)))

    def _users(self, item, task_vars):
        return dict({'shell': '/bin/bash'}, **self._values(item, task_vars))

    def _services(self, item, task_vars):
        return self._values(item, task_vars)

    def _command(self, item, task_vars):
        if 'argv' in item:
            script = ' '.join(shlex.quote(self._text(word)) for word in item['argv'])
        else:
            script = 'set -e\n' + self._text(item['run'])
        values = self._values({key: item[key] for key in ('chdir', 'creates') if key in item}, task_vars)
        environment = {name: self._text(value) for name, value in item.get('environment', {}).items()}
        return dict({'chdir': '.', 'creates': None, 'script': script, 'environment': environment}, **values)

    def _values(self, mapping, task_vars):
        """A mapping as Jinja renders it, of plain values and without those left out."""
        rendered = self._templar.template(mapping)
        return json.loads(json.dumps({key: value for key, value in rendered.items() if value != task_vars.get('omit')}, default=str))

    def _text(self, text):
        """A text as Jinja renders it."""
        return json.loads(json.dumps(str(self._templar.template(text, **AS_IT_IS))))


def listed(part, entry):
    """The items of a part of an entry, each with its name."""
    if part == 'command':
        return [(None, entry)]
    if part == 'services':
        verbs = [('enable', 'enabled'), ('disable', 'disabled'), ('mask', 'masked')]
        return [(verb, {'verb': verb, 'units': entry[part][key]}) for verb, key in verbs if entry[part].get(key)]
    return [(item['name' if part == 'users' else 'path'], item) for item in entry[part]]


class Rendering(Template):
    """The action template, which hands its result to us in place of the action copy."""

    TRANSFERS_FILES = False

    def __init__(self, action):
        super().__init__(action._task.copy(), action._connection, action._play_context, action._loader, action._templar, None)
        self._shared_loader_obj = self.action_loader = self

    def of(self, file, task_vars):
        self._task.args = {'src': file['source'], 'dest': file['path'], 'mode': file['mode']}
        path = list(task_vars.get('ansible_search_path', []))
        result = self.run(task_vars=dict(task_vars, ansible_search_path=path, item=file))
        if result.get('failed'):
            raise AnsibleError(result['msg'])
        return self.content

    def get(self, action, task, **rest):
        with open(task.args['src'], 'rb') as rendered:
            self.content = rendered.read()
        return Nothing()


class Nothing:
    def run(self, task_vars):
        return {}
