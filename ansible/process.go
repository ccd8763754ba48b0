package ansible

import (
	"context"
	"os/exec"

	goexec "github.com/apenella/go-ansible/v2/pkg/execute/exec"
)

// processes starts what go-ansible asks for, with our environment. It keeps the
// result of the last process, since go-ansible's errors do not unwrap and would
// print the environment.
type processes struct {
	start Commander
	env   []string
	dir   string
	last  *process
}

// process is a goexec.Cmder whose Wait always succeeds, so that go-ansible
// does not put its own error together; failed tells the truth.
type process struct {
	*exec.Cmd
	err error
}

func (p *processes) Command(name string, args ...string) goexec.Cmder {
	return p.CommandContext(context.Background(), name, args...)
}

func (p *processes) CommandContext(ctx context.Context, name string, args ...string) goexec.Cmder {
	cmd := p.start(ctx, name, args...)
	cmd.Env, cmd.Dir = p.env, p.dir
	p.last = &process{Cmd: cmd}
	return p.last
}

func (p *process) Start() error {
	p.err = p.Cmd.Start()
	return p.err
}

func (p *process) Wait() error {
	p.err = p.Cmd.Wait()
	return nil
}

// failed is why the process did not end well, or nil.
func (p *process) failed() error {
	if p == nil {
		return nil
	}
	return p.err
}
