package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/btw-img/btw-img/orchestrator"
	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/diskformat"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/files"
	"github.com/btw-img/btw-img/orchestrator/format"
	"github.com/btw-img/btw-img/publish"
	"github.com/btw-img/btw-img/publish/artifact"
	"github.com/btw-img/btw-img/publish/registry"
)

type pushOptions struct {
	registry      registryFlags
	folder        string
	forceUntested bool
	containerDisk bool
	signKey       string
	annotations   []string
}

func newPush() *cobra.Command {
	var o pushOptions
	cmd := &cobra.Command{
		Use:   "push NAME|DIR [REF…]",
		Short: "Publish a built image as an OCI artifact",
		Long: `Publish what 'vmctl build' left, with its boot report, package list (SPDX), checksums
and build record attached. An image that did not pass its boot test, or that was
changed since, is refused.

A REF without a tag gets the tags of the release: VERSION-DATE.N, which is never
overwritten, and VERSION and latest, which move to the newest push. With a TAG,
they are TAG-DATE.N and TAG. Formats beside the first get tags that end in
-FORMAT; what is no image of a disk (tar, ova and the like) is not published. Without a
REF, the image goes to $CI_REGISTRY_IMAGE/NAME in a GitLab job, to
$VMCTL_REGISTRY/NAME where that variable is set, and else to the OCI layout
oci:images/` + definition.LayoutsFolder + `/NAME, which 'vmctl serve' offers to a network.
` + registryHelp + exitCodes,
		Example: `  vmctl push debian
  vmctl push debian oci:layouts/debian:edge --annotation org.opencontainers.image.licenses=MIT
  vmctl push debian registry.example/lab/debian --sign-key cosign.key --container-disk`,
		RunE: func(cmd *cobra.Command, args []string) error { return runPush(cmd, o, args[0], args[1:]) },
	}
	flags := cmd.Flags()
	flags.StringVarP(&o.folder, "output", "o", defaultFolder, "folder with the builds, where a NAME is given")
	flags.BoolVar(&o.forceUntested, "force-untested", false, "publish an image that is not proved to boot; its annotations say so")
	flags.BoolVar(&o.containerDisk, "container-disk", false, "also push a container image for KubeVirt, as VERSION-containerdisk")
	flags.StringVar(&o.signKey, "sign-key", "", "private key (PEM) to sign with; 'cosign verify --key KEY --new-bundle-format --insecure-ignore-tlog' checks it")
	flags.StringArrayVar(&o.annotations, "annotation", nil, "OCI annotation, as in --annotation org.opencontainers.image.licenses=MIT; may be repeated")
	o.registry.add(cmd)
	return cmd
}

func runPush(cmd *cobra.Command, o pushOptions, target string, args []string) error {
	folder := target
	if info, err := os.Stat(filepath.Join(target, orchestrator.ManifestName)); err != nil || !info.Mode().IsRegular() {
		if folder, err = orchestrator.ResultsFolder(o.folder, target); err != nil {
			return &fail.Error{Kind: fail.Usage, Err: err, Hint: "name a build, or a folder that 'vmctl build' left"}
		}
	}
	release, err := readRelease(folder, o.annotations)
	if err != nil {
		return err
	}
	if len(release.Disks) == 0 {
		return fail.New(fail.Usage, folder, "build it with --format "+diskformat.Default+" too", "a release is of disks, and it has none")
	}
	refs, err := o.references(release.Name, args)
	if err != nil {
		return err
	}
	access, err := o.registry.access(cmd.InOrStdin())
	if err != nil {
		return err
	}
	show := newProgress(cmd.ErrOrStderr(), false)
	defer show.close()
	options := publish.PushOptions{ForceUntested: o.forceUntested, ContainerDisk: o.containerDisk, Tell: show.transfer}
	if o.signKey != "" {
		if options.Signer, err = publish.ReadSigner(o.signKey); err != nil {
			return err
		}
	}
	pushed := []publish.Pushed{}
	var failures []error
	for _, ref := range refs { // one that fails does not keep the others from it
		done, err := pushTo(cmd.Context(), access, ref, release, options)
		pushed, failures = append(pushed, done...), append(failures, err)
		if cmd.Context().Err() != nil {
			break
		}
	}
	err = joined(failures)
	if asJSON(cmd, pushed) {
		return err
	}
	for _, p := range pushed {
		fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n", p.Reference, p.Digest)
	}
	return err
}

func pushTo(ctx context.Context, access registry.Access, ref registry.Reference, release artifact.Release, o publish.PushOptions) (pushed []publish.Pushed, err error) {
	if o.Tag, err = ref.Tag(); err != nil {
		return nil, err
	}
	dst, err := access.OpenDestination(ctx, ref)
	if err != nil {
		return nil, err
	}
	defer func() {
		if closing := dst.Close(); err == nil {
			err = closing
		}
	}()
	if pushed, err = publish.Push(ctx, dst, ref, release, o); err != nil {
		return nil, err
	}
	return pushed, dst.Commit(ctx)
}

// references is where a build goes: what the user names, or the default.
func (o pushOptions) references(name string, args []string) ([]registry.Reference, error) {
	if len(args) == 0 {
		ref, err := defaultReference(o.folder, name)
		return []registry.Reference{ref}, err
	}
	refs, err := parseReferences(args)
	if err != nil || o.registry.username == "" && !o.registry.passwordStdin {
		return refs, err
	}
	hosts := map[string]bool{}
	for _, ref := range refs {
		if ref.Host() != "" {
			hosts[ref.Host()] = true
		}
	}
	if len(hosts) > 1 {
		return nil, fail.New(fail.Usage, "", "run 'vmctl login' for each registry, or push to one at a time",
			"--username and --password-stdin are for one registry, and would go to each of %s", strings.Join(slices.Sorted(maps.Keys(hosts)), ", "))
	}
	return refs, nil
}

func defaultReference(folder, name string) (registry.Reference, error) {
	if err := files.CheckFileName(name); err != nil { // which would lead out of the folder
		return registry.Reference{}, fail.New(fail.Usage, orchestrator.ManifestName, "build it again", "the name of the build: %w", err)
	}
	for _, variable := range []string{"VMCTL_REGISTRY", "CI_REGISTRY_IMAGE"} {
		if prefix := os.Getenv(variable); prefix != "" {
			return registry.ParseReference(prefix + "/" + name)
		}
	}
	return layoutOf(filepath.Join(folder, definition.LayoutsFolder), name)
}

// layoutOf is the OCI layout of the build of that name.
func layoutOf(folder, name string) (registry.Reference, error) {
	if err := definition.CheckName(name); err != nil {
		return registry.Reference{}, err
	}
	return registry.Layout(filepath.Join(folder, name), "")
}

// readRelease reads the folder of a build as something to publish.
func readRelease(folder string, annotations []string) (artifact.Release, error) {
	built, err := orchestrator.ReadBuilt(folder)
	if errors.Is(err, fs.ErrPermission) {
		return artifact.Release{}, &fail.Error{Kind: fail.Host, Err: err, Hint: "ask the owner of " + folder + " for the right to read it"}
	}
	if err != nil {
		return artifact.Release{}, &fail.Error{Kind: fail.Usage, Err: err, Hint: "name a folder that 'vmctl build' left, or run 'vmctl build " + filepath.Base(folder) + "' first"}
	}
	r := artifact.Release{
		Folder: folder, Name: built.Name, Description: built.Definition.Description, Version: built.Version,
		Architecture: built.Architecture, BuildID: built.ID, Created: built.Created, Tool: "vmctl " + built.Vmctl,
		RawDigest: sha256Digest(built.Disk.SHA256), Tested: built.Tested, Packages: built.Packages, Annotations: map[string]string{},
	}
	for _, output := range built.Outputs {
		if !format.Named(output.Format).Disk {
			continue
		}
		if err := orchestrator.CheckImage(filepath.Join(folder, output.Name), output.Format); err != nil {
			return artifact.Release{}, err
		}
		d := artifact.Disk{Name: output.Name, Format: output.Format, Size: output.Size, VirtualSize: output.VirtualSize, Digest: sha256Digest(output.SHA256)}
		if output.Format == diskformat.Raw && r.RawDigest == "" {
			r.RawDigest = d.Digest
		}
		r.Disks = append(r.Disks, d)
	}
	for _, b := range built.Boot {
		if b.CD {
			continue // no CD is pushed
		}
		boot := artifact.Boot{Firmware: b.Firmware, Passed: b.Passed, Proof: b.Proof, Problem: b.Problem, Accel: b.Accel, Seconds: b.Seconds}
		if b.Report != nil {
			if boot.Report, err = json.Marshal(b.Report); err != nil {
				return r, err
			}
		}
		r.Boots = append(r.Boots, boot)
	}
	for key, value := range map[string]string{ocispec.AnnotationRevision: built.Revision, ocispec.AnnotationSource: built.Repository} {
		if value != "" {
			r.Annotations[key] = value
		}
	}
	for _, annotation := range annotations {
		key, value, ok := strings.Cut(annotation, "=")
		if !ok || key == "" {
			return r, fail.New(fail.Usage, "--annotation", "write KEY=VALUE", "%q has no value", annotation)
		}
		r.Annotations[key] = value
	}
	return r, nil
}

func sha256Digest(hex string) digest.Digest {
	if hex == "" {
		return ""
	}
	return digest.NewDigestFromEncoded(digest.SHA256, hex)
}
