# The boot sector that asks whether an accelerator can run 64-bit code: it
# enters long mode and ends QEMU through isa-debug-exit at port 0xf4.
# Assemble: as kvmprobe.S -o p.o && ld -Ttext 0x7c00 --oformat binary p.o -o kvmprobe.bin
.code16
.globl _start
_start:
	cli
	cld
	xorw %ax, %ax
	movw %ax, %ds
	movw %ax, %es
	movw %ax, %ss
	movw $0x7c00, %sp
	movw $0x1000, %di            # clear PML4, PDPT and PD
	movw $0x3000 / 2, %cx
	rep stosw
	movl $0x2003, 0x1000         # PML4[0]: PDPT, present, writable
	movl $0x3003, 0x2000         # PDPT[0]: PD
	movl $0x0083, 0x3000         # PD[0]: 2 MiB page at 0
	lgdt gdt_pointer
	movl %cr4, %eax
	orl $0x20, %eax              # PAE
	movl %eax, %cr4
	movl $0x1000, %eax
	movl %eax, %cr3
	movl $0xc0000080, %ecx       # EFER
	rdmsr
	orl $0x100, %eax             # LME
	wrmsr
	movl %cr0, %eax
	orl $0x80000001, %eax        # PG, PE
	movl %eax, %cr0
	ljmp $0x08, $long_mode
.code64
long_mode:
	movb $0x10, %al
	outb %al, $0xf4
halt:
	hlt
	jmp halt
.balign 8
gdt:
	.quad 0
	.quad 0x00209a0000000000     # 64-bit code
gdt_pointer:
	.word gdt_pointer - gdt - 1
	.long gdt
.org 510
	.word 0xaa55
