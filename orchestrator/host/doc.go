// Package host is the only owner of what touches the machine that builds:
// commands, mounts, loop devices, namespaces and files inside an image's tree.
// It knows nothing of builds; the packages above it say what to run where.
package host
