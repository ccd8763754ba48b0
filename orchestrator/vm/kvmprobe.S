# The boot sector that asks whether an accelerator can run firmware and a 64-bit
# kernel: it uses the FPU in protected mode, enters long mode, takes an exception
# and a timer interrupt there, and ends QEMU through isa-debug-exit at port 0xf4.
# Hypervisors that emulate what their processor cannot run (such as PVM, which runs
# only kernels made for it) get no further than the FPU.
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
	movw $0x1000, %di            # clear PML4, PDPT, PD and IDT
	movw $0x4000 / 2, %cx
	rep stosw
	movl $0x2003, 0x1000         # PML4[0]: PDPT, present, writable
	movl $0x3003, 0x2000         # PDPT[0]: PD
	movl $0x0083, 0x3000         # PD[0]: 2 MiB page at 0
	lgdt gdt_pointer
	lidt idt_pointer
	movl %cr0, %eax
	orl $1, %eax                 # PE
	movl %eax, %cr0
	ljmp $0x18, $protected
.code32
protected:
	movl $0x10, %eax             # data segment
	movl %eax, %ds
	movl %eax, %ss
	wait
	fninit
	fldcw fpu_control
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
	orl $0x80000000, %eax        # PG
	movl %eax, %cr0
	ljmp $0x08, $long_mode
.code64
long_mode:
	movl $0x7c00, %esp
	movl $0x4000 + 6 * 16, %edi  # gate of #UD
	movl $undefined, %eax
	call gate
	movl $0x4000 + 0x20 * 16, %edi # gate of IRQ 0
	movl $timer, %eax
	call gate
	ud2
	jmp halt                     # the exception was lost
undefined:
	movl $0x7c00, %esp           # iretq is left to the interrupt
	movl $commands, %esi         # both interrupt controllers, and the timer
	movl $(commands_end - commands) / 2, %ecx
next:
	lodsw
	movzbl %al, %edx
	movb %ah, %al
	outb %al, %dx
	loop next
	sti
wait:
	hlt
	cmpb $0, ticks
	je wait
	movb $0x10, %al
	outb %al, $0xf4
halt:
	hlt
	jmp halt
timer:
	movb $1, ticks
	movb $0x20, %al              # end of interrupt
	outb %al, $0x20
	iretq
gate:                                # interrupt gate to EAX at EDI
	movw %ax, (%rdi)
	movl $0x8e000008, 2(%rdi)    # code segment; present, interrupt gate
	movb $0, 4(%rdi)
	shrl $16, %eax
	movw %ax, 6(%rdi)
	ret
commands:                            # port, value
	.byte 0x20, 0x11, 0x21, 0x20, 0x21, 0x04, 0x21, 0x01, 0x21, 0xfe
	.byte 0x43, 0x34, 0x40, 0x00, 0x40, 0x10
commands_end:
ticks:	.byte 0
.balign 2
fpu_control:
	.word 0x037f
.balign 8
gdt:
	.quad 0
	.quad 0x00209a0000000000     # 64-bit code
	.quad 0x00cf92000000ffff     # data
	.quad 0x00cf9a000000ffff     # 32-bit code
gdt_pointer:
	.word gdt_pointer - gdt - 1
	.long gdt
idt_pointer:
	.word 0x21 * 16 - 1
	.long 0x4000
.org 510
	.word 0xaa55
