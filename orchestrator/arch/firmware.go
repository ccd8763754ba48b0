// Package arch is what is known of the machines that images are for: their firmware
// and their processors. It runs nothing.
package arch

// Names of the firmwares.
const (
	BIOS       = "bios"
	UEFI       = "uefi"
	SecureBoot = "secureboot"
)
