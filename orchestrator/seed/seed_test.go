package seed_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/seed"
)

func TestASeedIsCompleted(t *testing.T) {
	given := seed.Seed{seed.UserData: []byte("#cloud-config\nusers: [default]\n")}
	one, err := given.Complete("web-1")
	if err != nil {
		t.Fatal(err)
	}
	if meta := string(one[seed.MetaData]); !strings.HasPrefix(meta, "instance-id: \"iid-") || !strings.HasSuffix(meta, "\nlocal-hostname: \"web-1\"\n") {
		t.Errorf("meta-data %q", meta)
	}
	again, _ := given.Complete("web-1")
	other, _ := given.Complete("web-2")
	if !bytes.Equal(one[seed.MetaData], again[seed.MetaData]) || bytes.Equal(one[seed.MetaData], other[seed.MetaData]) {
		t.Error("the instance is not known by its content")
	}
	if given[seed.MetaData] != nil {
		t.Error("what was given is changed")
	}
}

func TestWhatCloudInitWouldPassOver(t *testing.T) {
	for name, tc := range map[string]struct {
		file, content, host, want string
	}{
		"settings":              {seed.UserData, "#cloud-config\nusers: []\n", "", ""},
		"script":                {seed.UserData, "#!/bin/sh\n: {", "", ""},
		"jinja":                 {seed.UserData, "## template: jinja\n#cloud-config\n{{ x }}", "", ""},
		"no first line":         {seed.UserData, "users: []\n", "", "first line"},
		"no YAML":               {seed.UserData, "#cloud-config\nusers: [\n", "", "user-data"},
		"a list":                {seed.UserData, "#cloud-config\n- users\n", "", "user-data"},
		"too large":             {seed.UserData, "#!/bin/sh\n" + strings.Repeat("#", seed.Largest), "", "larger"},
		"no instance":           {seed.MetaData, "local-hostname: x\n", "", "instance-id"},
		"an instance":           {seed.MetaData, "instance-id: x\n", "", ""},
		"two names":             {seed.MetaData, "instance-id: x\n", "host", "host name"},
		"network":               {seed.NetworkConfig, "version: 2\nethernets: {}\n", "", ""},
		"network of no version": {seed.NetworkConfig, "ethernets: {}\n", "", "version"},
		"a number":              {seed.UserData, "#!/bin/sh\n", "42", ""},
		"null":                  {seed.UserData, "#!/bin/sh\n", "null", ""},
		"their number":          {seed.MetaData, "instance-id: x\nlocal-hostname: 42\n", "", "local-hostname"},
		"no host name":          {seed.UserData, "#!/bin/sh\n", "a b\nc", "no host name"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := seed.Seed{tc.file: []byte(tc.content)}.Complete(tc.host)
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want) || fail.ExitCode(err) != 2) {
				t.Errorf("error %v, want %q", err, tc.want)
			}
		})
	}
}
