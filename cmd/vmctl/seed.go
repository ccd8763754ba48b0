package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/files"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/image"
	"github.com/btw-img/btw-img/orchestrator/seed"
)

type seedOptions struct {
	hostname  string
	files     map[string]*string // by their names in the seed
	overwrite bool
	listen    string
}

func newSeed() *cobra.Command {
	o := seedOptions{files: map[string]*string{}}
	cmd := &cobra.Command{
		Use:   "seed [FILE]",
		Short: "Write what cloud-init tells one machine on its first boot, as a disk, or serve it",
		Long: `Write a seed for cloud-init's data source NoCloud: a small ISO 9660 image, labelled cidata,
that a machine finds on a disk or CD beside its own. What cloud-init would pass over in
silence is refused; where cloud-init is installed, it checks the settings with its own
schema. The file is for you alone, as it may hold passwords.

With --listen the seed is served by HTTP in place of that, until vmctl is interrupted: to
whoever reaches the address, without encryption. A machine is led there by the serial
number in its SMBIOS, for which the addresses are printed: in QEMU it is
-smbios type=1,serial=…, and the host is 10.0.2.2 in its user network. That needs no
disk, but an image that looks for NoCloud, and a network before it is configured.

` + exitCodes,
		Example: `  vmctl seed web-1.iso --hostname web-1
  vmctl seed web-1.iso --user-data user.yml --network-config network.yml --overwrite
  vmctl seed --user-data user.yml --listen 127.0.0.1:8000`,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case o.listen != "" && len(args) > 0:
				return misused(cmd, "leave one of them out", "FILE and --listen exclude each other")
			case o.listen != "":
				return serveSeed(cmd, o)
			case len(args) == 0:
				return misused(cmd, "", "FILE is missing")
			}
			return runSeed(cmd, o, args[0])
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.hostname, "hostname", "", "name of the machine (default: that of its image)")
	for name, about := range map[string]string{
		seed.UserData: "file with settings (#cloud-config) or a script (#!)", seed.MetaData: "file with the name of the instance (default: made of the content)",
		seed.NetworkConfig: "file with the network's settings", seed.VendorData: "file as --user-data, which that beats",
	} {
		o.files[name] = flags.String(name, "", about)
	}
	flags.StringVar(&o.listen, "listen", "", "address and port to serve the seed on, in place of a file")
	flags.BoolVar(&o.overwrite, "overwrite", false, "replace a file of the same name")
	return cmd
}

// seeded is a seed that was written.
type seeded struct {
	Path    string `json:"path"`
	Size    int64  `json:"size"` // bytes
	SHA256  string `json:"sha256"`
	Checked bool   `json:"checked"` // by cloud-init's own schema
}

func runSeed(cmd *cobra.Command, o seedOptions, target string) error {
	if _, err := os.Lstat(target); !errors.Is(err, fs.ErrNotExist) && !o.overwrite {
		return fail.New(fail.Usage, target, "give --overwrite, or another name", "it is there already")
	}
	whole, err := o.read()
	if err != nil {
		return err
	}
	checked, err := checkSchema(cmd.Context(), &host.Local{}, whole)
	if err != nil {
		return err
	}
	result := seeded{Path: target, Checked: checked}
	if result.SHA256, result.Size, err = writeSeed(cmd.Context(), whole, target); err != nil {
		return fail.Wrap(fail.Host, "write the seed", err)
	}
	if !checked {
		fmt.Fprintln(cmd.ErrOrStderr(), "cloud-init is not installed here: its schema did not check the settings")
	}
	if asJSON(cmd, result) {
		return nil
	}
	fmt.Fprintln(cmd.OutOrStdout(), target)
	return nil
}

// serveSeed serves the seed until vmctl is interrupted.
func serveSeed(cmd *cobra.Command, o seedOptions) error {
	whole, err := o.read()
	if err != nil {
		return err
	}
	ctx := cmd.Context()
	if _, err := checkSchema(ctx, &host.Local{}, whole); err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.listen)
	if err != nil {
		return &fail.Error{Kind: fail.Host, Err: err, Hint: "choose another address with --listen"}
	}
	server := &http.Server{Handler: seedHandler(whole, cmd.ErrOrStderr()), ReadHeaderTimeout: seedPatience, WriteTimeout: seedPatience, IdleTimeout: seedPatience}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	for _, url := range urls(listener.Addr(), false) {
		fmt.Fprintln(cmd.OutOrStdout(), seed.Serial(url))
	}
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return &fail.Error{Kind: fail.Host, Op: "serve the seed", Err: err}
	}
	return nil
}

// seedPatience is for who asks slowly.
const seedPatience = 30 * time.Second

// seedHandler answers with the files of a seed, and tells who has asked for which.
func seedHandler(whole seed.Seed, log io.Writer) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		content, there := whole[strings.TrimPrefix(r.URL.Path, "/")]
		if !there || r.Method != http.MethodGet && r.Method != http.MethodHead {
			http.NotFound(w, r)
			return
		}
		fmt.Fprintf(log, "%s has asked for %s\n", r.RemoteAddr, strings.TrimPrefix(r.URL.Path, "/"))
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		_, _ = w.Write(content) // who has gone away is not told
	})
}

func (o seedOptions) read() (seed.Seed, error) {
	given := seed.Seed{}
	for name, path := range o.files {
		if *path == "" {
			continue
		}
		file, err := os.Open(*path)
		if err != nil {
			return nil, &fail.Error{Kind: fail.Usage, Op: "--" + name, Err: err}
		}
		defer file.Close()
		if given[name], err = io.ReadAll(io.LimitReader(file, seed.Largest+1)); err != nil {
			return nil, &fail.Error{Kind: fail.Usage, Op: "--" + name, Err: err}
		}
	}
	return given.Complete(o.hostname)
}

// writeSeed writes the seed beside its place until it is whole, reads it back and measures it.
func writeSeed(ctx context.Context, whole seed.Seed, target string) (sum string, size int64, err error) {
	if err := files.Trusted(filepath.Dir(target)); err != nil {
		return "", 0, err
	}
	file, err := os.CreateTemp(filepath.Dir(target), ".vmctl-seed-")
	if err != nil {
		return "", 0, err
	}
	defer os.Remove(file.Name())
	err = errors.Join(whole.Write(file), file.Sync(), file.Close())
	if err == nil {
		sum, size, err = image.Digest(ctx, file.Name())
	}
	if err == nil {
		err = errors.Join(files.Caller().Give(file.Name()), os.Rename(file.Name(), target))
	}
	if err != nil {
		return "", 0, err
	}
	return sum, size, files.Sync(filepath.Dir(target))
}

// checkSchema lets cloud-init check the settings, where it is installed.
func checkSchema(ctx context.Context, h host.Host, whole seed.Seed) (checked bool, err error) {
	if host.Find("cloud-init") == "" {
		return false, nil
	}
	folder, err := os.MkdirTemp(host.Temp(), "vmctl-seed-")
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	help, err := h.Output(ctx, host.Cmd("cloud-init", "schema", "--help"))
	if err != nil {
		return false, fail.Wrap(fail.Host, "ask cloud-init", err)
	}
	typed := strings.Contains(string(help), "--schema-type") // since 24.1
	for _, name := range []string{seed.UserData, seed.VendorData, seed.NetworkConfig} {
		arguments := []string{"schema", "--config-file", filepath.Join(folder, name)}
		switch {
		case whole[name] == nil || name == seed.NetworkConfig && !typed || name != seed.NetworkConfig && !seed.IsConfig(whole[name]):
			continue
		case name == seed.NetworkConfig:
			arguments = append(arguments, "--schema-type", name)
		}
		if err := os.WriteFile(arguments[2], whole[name], 0o600); err != nil {
			return false, err
		}
		if err := h.Run(ctx, host.Cmd("cloud-init", arguments...)); err != nil {
			// What it prints may hold what is secret in the settings.
			return false, &fail.Error{Kind: fail.Usage, Op: name, Hint: "'cloud-init schema --annotate --config-file FILE' shows where", Err: errors.New("cloud-init's schema refuses it")}
		}
	}
	return true, nil
}
