"""Applies one part of an entry: renders its values, and has tree.py apply all of its items
to the tree in one call. Its part facts is those of the tree, by facts.py. Its parts setup and
modprobe do so in place of the modules of these names (callback_plugins/vmctl_gates.py)."""

import ast
import fnmatch
import json
import marshal
import os
import shlex

import ansible
from ansible import __version__
from ansible import constants as C
from ansible.errors import AnsibleError
from ansible.module_utils.common.text.converters import to_text
from ansible.plugins.action import ActionBase
from ansible.plugins.action.template import ActionModule as Template
from ansible.plugins.loader import cache_loader

# How much of a file goes along with the call, in bytes. What is larger goes ahead of it.
LARGEST = 64 << 10

# What tree.py calls the work of each part.
WORK = {'files': 'files', 'templates': 'files', 'users': 'users', 'services': 'services', 'command': 'command'}


def program(name):
    with open(os.path.join(os.path.dirname(os.path.dirname(__file__)), name), encoding='utf-8') as file:
        return file.read()


PROGRAM = program('tree.py')

# The connection to a tree that runs, and knows more of itself.
GUEST = 'vmctl_guest'

# Up to 2.18, a text that looks like a list or a mapping once it is rendered becomes one.
AS_IT_IS = {'convert_data': False} if tuple(map(int, __version__.split('.')[:2])) < (2, 19) else {}


class ActionModule(ActionBase):
    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        part = self._task.args['part']
        if part == 'facts':
            return dict(result, **self._facts(task_vars))
        if part in ('setup', 'modprobe'):
            arguments = {name: value for name, value in self._task.args.items() if name != 'part'}
            return dict(result, **getattr(self, '_' + part)(arguments, task_vars))
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
        for name, item, one in zip(names, items or names, results):
            one['item'] = name
            if 'before' in one:
                result.setdefault('diff', []).extend(differences(item, one.pop('before'), one.pop('after')))
            if one.get('failed'):
                one['msg'] = '%s: %s' % (name, one['msg'])
                result.update(failed=True, msg=one['msg'])
        return dict(result, results=results, changed=any(one.get('changed') for one in results))

    def _in_tree(self, part, items, task_vars):
        return self._python(PROGRAM, '', marshal.dumps((WORK[part], items), 2), task_vars, lambda failure: [failure])

    def _python(self, text, arguments, in_data, task_vars, failed):
        """What a program prints that the tree's Python runs."""
        done = self._low_level_execute_command(
            'exec %s -ISB -c %s %s' % (task_vars['ansible_python_interpreter'], shlex.quote(text), arguments), in_data=in_data, sudoable=False)
        if done['rc']:
            return failed({'failed': True, 'msg': 'MODULE FAILURE', 'module_stdout': done['stdout'], 'module_stderr': done['stderr'], 'rc': done['rc']})
        return ast.literal_eval(done['stdout'].strip())

    def _facts(self, task_vars):
        """The facts of the tree. Where it has what facts.py does not know, Ansible's own setup finds them."""
        found = None
        if self._connection.transport != GUEST:
            found = self._python(program('facts.py'), 'best' if best_version() else '', None, task_vars, lambda failure: None)
        if found is None:
            return self._execute_module('ansible.legacy.setup', {'gather_subset': ['!all']}, task_vars=task_vars)
        return {'ansible_facts': found}

    def _setup(self, arguments, task_vars):
        """The facts that a task registers, which has them from no cache: it is told the machine's, too."""
        asked = {name: value for name, value in arguments.items() if name != 'parallel'}  # which is of gather_facts
        done = self._execute_module('ansible.legacy.setup', asked, task_vars=task_vars)
        if 'ansible_facts' in done:
            wanted, found = asked.get('filter') or ['*'], done['ansible_facts']
            wanted = wanted.split(',') if isinstance(wanted, str) else wanted
            done['ansible_facts'] = {
                name: value for name, value in cache_loader.get('machine').machines(found, True).items()
                if name in found or any(fnmatch.fnmatch(name, pattern) or fnmatch.fnmatch(name, 'ansible_' + pattern) for pattern in wanted)
            }
        return done

    def _modprobe(self, arguments, task_vars):
        """Has a stand-in write down that a module is to be loaded. What is kept in files, the module does."""
        if arguments.get('persistent', 'disabled') != 'disabled':
            return self._execute_module('community.general.modprobe', arguments, task_vars=task_vars)
        if arguments.get('state') == 'absent':
            return {'msg': 'The image has loaded no modules.'}
        words = [str(arguments[name]) for name in ('name', 'params') if arguments.get(name)]
        return self._execute_module('ansible.legacy.command', {'argv': ['modprobe', *words]}, task_vars=task_vars)

    # What tree.py needs of an item.

    def _files(self, item, task_vars):
        file = self._file(item, task_vars)
        if 'source' not in item:
            return dict(file, content=self._text(item.get('content', '')).encode('utf-8', 'surrogateescape'))
        source = self._find_needle('files', file['source'])
        path = self._loader.get_real_file(source, decrypt=True)
        file['name'] = os.path.basename(file['source'])
        if path != source:  # it was decrypted
            file['diff'] = 0
        if os.path.getsize(path) > LARGEST:
            return dict(file, staged=self._stage(path))
        with open(path, 'rb') as source:
            return dict(file, content=source.read())

    def _templates(self, item, task_vars):
        file = self._file(item, task_vars)
        file['name'] = os.path.basename(file['source'])
        source = self._find_needle('templates', file['source'])
        if self._loader.get_real_file(source, decrypt=True) != source:
            file['diff'] = 0
        return dict(file, content=Rendering(self).of(file, task_vars))

    def _file(self, item, task_vars):
        values = self._values({key: value for key, value in item.items() if key != 'content'}, task_vars)
        return dict({
            'mode': '0644', 'owner': 'root', 'group': 'root', 'name': None, 'content': None, 'staged': None,
            'diff': C.MAX_FILE_SIZE_FOR_DIFF if self._task.diff else 0,
        }, **values)

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
        environment = getattr(self._connection._shell, 'with_stand_ins', dict)(environment)  # a guest has none
        return dict({'chdir': '.', 'creates': None, 'script': script, 'environment': environment}, **values)

    def _values(self, mapping, task_vars):
        """A mapping as Jinja renders it, of plain values and without those left out."""
        rendered = self._templar.template(mapping)
        return json.loads(json.dumps({key: value for key, value in rendered.items() if value != task_vars.get('omit')}, default=str))

    def _text(self, text):
        """A text as Jinja renders it."""
        return json.loads(json.dumps(str(self._templar.template(text, **AS_IT_IS))))


def best_version():
    """Whether this Ansible takes Debian's point release for its version."""
    with open(os.path.join(os.path.dirname(ansible.__file__), 'module_utils', 'distro', '_distro.py'), encoding='utf-8') as file:
        return '_debian_version' in file.read()


def listed(part, entry):
    """The items of a part of an entry, each with its name."""
    if part == 'command':
        return [(None, entry)]
    if part == 'services':
        verbs = [('enable', 'enabled'), ('disable', 'disabled'), ('mask', 'masked')]
        return [(verb, {'verb': verb, 'units': entry[part][key]}) for verb, key in verbs if entry[part].get(key)]
    return [(item['name' if part == 'users' else 'path'], item) for item in entry[part]]


def differences(item, before, after):
    """What --diff shows of a file, as the modules copy and file tell it."""
    path, content = after.pop('path'), item['content']
    shown = {'before_header': path, 'after_header': path}
    if before['content'] is None:
        shown['dst_larger'] = item['diff']
    elif b'\0' in before['content']:
        shown['dst_binary'] = 1
    else:
        shown['before'] = to_text(before['content'])
    if content is None or len(content) > item['diff']:
        shown['src_larger'] = item['diff']
    elif b'\0' in content:
        shown['src_binary'] = 1
    else:
        shown['after'] = to_text(content)
    all = [shown]
    had = {name: before[name] for name in after if name in before}
    if had and had != after:
        all.append(dict(before_header=path, after_header=path, before=had, after=after))
    return all


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
