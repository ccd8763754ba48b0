//go:build e2e

package e2e

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/wait"
)

// bareDebian is the image of a bare Debian with vmctl, which whoever comes first builds.
func bareDebian(t *testing.T) testcontainers.FromDockerfile {
	t.Helper()
	image := testcontainers.FromDockerfile{KeepImage: true, Repo: "vmctl-e2e", Tag: "debian"}
	bareDebianOnce.Do(func() {
		making := image
		making.ContextArchive = debianContext(t)
		contain(t, making, "true", nil, nil)
	})
	return image
}

var bareDebianOnce sync.Once

// debianContext is a build context whose image is that.
func debianContext(t *testing.T) io.ReadSeeker {
	t.Helper()
	root := filepath.Join(t.TempDir(), "root.tar")
	tool(t, "mmdebstrap", "--variant=minbase", "--mode=root", "--include=ca-certificates", "trixie", root)
	var b bytes.Buffer
	archive := tar.NewWriter(&b)
	add := func(name, path string, mode int64, content []byte) {
		if path != "" {
			var err error
			if content, err = os.ReadFile(path); err != nil {
				t.Fatal(err)
			}
		}
		if err := archive.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := archive.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	add("root.tar", root, 0o644, nil)
	add("vmctl", vmctl, 0o755, nil)
	add("Dockerfile", "", 0o644, []byte("FROM scratch\nADD root.tar /\nCOPY vmctl /usr/local/bin/vmctl\n"))
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	return bytes.NewReader(b.Bytes())
}

// TestBuildInAContainer builds as the job in .gitlab-ci.yml does, with the
// privileges that it names and no others.
func TestBuildInAContainer(t *testing.T) {
	t.Parallel()
	docker(t)
	source := bareDebian(t)

	t.Run("without privileges", func(t *testing.T) {
		code, log := contain(t, source, "vmctl build debian; echo code $?", nil, nil)
		if code != 0 || !strings.Contains(log, "code 3") {
			t.Fatalf("exit code %d\n%s", code, log)
		}
		for _, want := range []string{"mmdebstrap: not installed", "qemu-system-x86_64: not installed", "seccomp=unconfined", "doctor --install-missing"} {
			if !strings.Contains(log, want) {
				t.Errorf("the refusal lacks %q:\n%s", want, log)
			}
		}
	})
	t.Run("with the least privileges", func(t *testing.T) {
		source := bareDebian(t)
		folder := t.TempDir()
		r := lockedRegistry(t)
		tool(t, "cp", r.flags[1], filepath.Join(folder, "ca.crt"))
		project := map[string]string{"CI_REGISTRY": r.host, "CI_REGISTRY_IMAGE": r.host + "/group/project", "CI_REGISTRY_USER": r.user, "CI_REGISTRY_PASSWORD": r.password, "VMCTL_CACHE": "/builds/.layers"}
		script := `cd /builds && vmctl doctor --install-missing && vmctl build debian --set firmware=[bios] && vmctl push debian --ca-file ca.crt &&
			apt-get install --yes --no-install-recommends libcap2-bin && chmod u-s /usr/bin/new[ug]idmap && setcap cap_setuid=ep /usr/bin/newuidmap && setcap cap_setgid=ep /usr/bin/newgidmap &&
			useradd --home-dir /builds/user --create-home somebody && cd user && setpriv --reuid=somebody --regid=somebody --clear-groups env HOME=/builds/user VMCTL_CACHE=/builds/user/.layers vmctl build debian --no-test --format raw`
		code, log := contain(t, source, script, project, func(c *container.HostConfig) {
			c.SecurityOpt = []string{"seccomp=unconfined", "apparmor=unconfined"}
			c.Binds = []string{folder + ":/builds"}
		})
		if code != 0 {
			t.Fatalf("exit code %d\n%s", code, log)
		}
		for _, want := range []string{"section_start:", "section_end:", "bios: up after"} {
			if !strings.Contains(log, want) {
				t.Errorf("the job's log lacks %q:\n%s", want, log)
			}
		}
		if images, _ := filepath.Glob(filepath.Join(folder, "images/debian/*.qcow2")); len(images) != 1 {
			t.Errorf("images: %v", images)
		}
		if images, _ := filepath.Glob(filepath.Join(folder, "user/images/debian/*.raw")); len(images) != 1 {
			t.Errorf("images of an ordinary user in the container: %v", images)
		}
		for _, secret := range []string{"job-token-hunter2", registryPassword} {
			if out, err := exec.Command("grep", "-r", "-l", secret, folder).Output(); err == nil || strings.Contains(log, secret) {
				t.Errorf("a secret of the job is in its log or in %s", out)
			}
		}
		if _, m := r.leaf(t, "group/project/debian", "latest"); len(m.Layers) != 1 {
			t.Errorf("what the job published: %+v", m)
		}
		nothingLeft(t, folder)
	})
}

// contain runs a shell command in a container of the image, as a job of GitLab,
// and returns its exit code and output.
func contain(t *testing.T, image testcontainers.FromDockerfile, script string, variables map[string]string, privileges func(*container.HostConfig)) (int, string) {
	t.Helper()
	env := map[string]string{"GITLAB_CI": "true", "CI_JOB_TOKEN": "job-token-hunter2", "DEBIAN_FRONTEND": "noninteractive"}
	maps.Copy(env, variables)
	request := testcontainers.ContainerRequest{
		Cmd:        []string{"/bin/sh", "-c", script},
		Env:        env,
		WaitingFor: wait.ForExit().WithExitTimeout(30 * time.Minute),
		HostConfigModifier: func(c *container.HostConfig) {
			c.NetworkMode = "host"
			if privileges != nil {
				privileges(c)
			}
		},
	}
	if image.ContextArchive != nil {
		request.FromDockerfile = image
	} else {
		request.Image = image.Repo + ":" + image.Tag
	}
	ctx := context.WithoutCancel(t.Context())
	c, err := testcontainers.GenericContainer(ctx, testcontainers.GenericContainerRequest{ContainerRequest: request, Started: true})
	testcontainers.CleanupContainer(t, c)
	if err != nil {
		t.Fatal(err)
	}
	logs, err := c.Logs(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = logs.Close() }()
	text, err := io.ReadAll(logs)
	if err != nil {
		t.Fatal(err)
	}
	state, err := c.State(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return state.ExitCode, string(text)
}
