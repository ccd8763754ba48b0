//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/btw-img/btw-img/orchestrator/host"
)

// docker makes sure that a Docker daemon answers. Where none does, all tests
// share one that is started here.
func docker(t *testing.T) {
	t.Helper()
	if err := dockerOnce(); err != nil {
		t.Fatal(err)
	}
}

var (
	dockerOnce = sync.OnceValue(startDocker)
	stopDocker = func() {}
)

func startDocker() error {
	for key, value := range map[string]string{"TESTCONTAINERS_RYUK_DISABLED": "true", "TESTCONTAINERS_HOST_OVERRIDE": "127.0.0.1"} {
		if err := os.Setenv(key, value); err != nil {
			return err
		}
	}
	if connection, err := net.Dial("unix", "/var/run/docker.sock"); err == nil {
		return connection.Close()
	}
	if os.Getenv("DOCKER_HOST") != "" {
		return nil
	}
	dir := filepath.Join(shared, "docker")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	socket := filepath.Join(dir, "docker.sock")
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return err
	}
	// It ends with the tests however they end, and so do its mounts, which nobody else sees.
	ctx, cancel := context.WithCancel(context.Background())
	daemon := host.Tied(ctx, "/bin/sh", "-c", `PATH=$PATH:/usr/sbin:/sbin && exec dockerd "$@"`, "sh",
		"--host=unix://"+socket, "--data-root="+filepath.Join(dir, "data"), "--exec-root="+filepath.Join(dir, "exec"),
		"--pidfile="+filepath.Join(dir, "pid"), "--iptables=false", "--ip6tables=false")
	daemon.Stdout, daemon.Stderr = log, log
	daemon.SysProcAttr.Unshareflags, daemon.SysProcAttr.Pdeathsig = syscall.CLONE_NEWNS, syscall.SIGTERM
	daemon.Cancel = func() error { return daemon.Process.Signal(syscall.SIGTERM) }
	daemon.WaitDelay = time.Minute
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = host.RunTied(daemon)
	}()
	stopDocker = func() {
		cancel()
		<-ended
	}
	if err := os.Setenv("DOCKER_HOST", "unix://"+socket); err != nil {
		return err
	}
	for range 300 {
		if _, err := os.Stat(socket); err == nil {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	content, _ := os.ReadFile(log.Name())
	return fmt.Errorf("dockerd does not answer:\n%s", content)
}
