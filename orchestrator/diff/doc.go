// Package diff says in what two disks differ: partition by partition, file by file,
// package by package. It mounts and runs nothing.
package diff
