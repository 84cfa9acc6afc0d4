//go:build gc && !purego

#include "textflag.h"

// Rotations of each 8 bytes to the right.
DATA rot24<>+0(SB)/8, $0x0201000706050403
DATA rot24<>+8(SB)/8, $0x0a09080f0e0d0c0b
DATA rot24<>+16(SB)/8, $0x0201000706050403
DATA rot24<>+24(SB)/8, $0x0a09080f0e0d0c0b
GLOBL rot24<>(SB), RODATA|NOPTR, $32

DATA rot16<>+0(SB)/8, $0x0100070605040302
DATA rot16<>+8(SB)/8, $0x09080f0e0d0c0b0a
DATA rot16<>+16(SB)/8, $0x0100070605040302
DATA rot16<>+24(SB)/8, $0x09080f0e0d0c0b0a
GLOBL rot16<>(SB), RODATA|NOPTR, $32

// MUL adds b and twice the product of the low halves to a.
#define MUL(a, b, t) \
	VPMULUDQ a, b, t \
	VPADDQ   b, a, a \
	VPADDQ   t, t, t \
	VPADDQ   t, a, a

// QUARTERS is GB (RFC 9106 section 3.6) of two times four columns.
#define QUARTERS(a0, b0, c0, d0, a1, b1, c1, d1) \
	MUL(a0, b0, Y8)         \
	MUL(a1, b1, Y9)         \
	VPXOR   a0, d0, d0      \
	VPXOR   a1, d1, d1      \
	VPSHUFD $0xb1, d0, d0   \
	VPSHUFD $0xb1, d1, d1   \
	MUL(c0, d0, Y8)         \
	MUL(c1, d1, Y9)         \
	VPXOR   c0, b0, b0      \
	VPXOR   c1, b1, b1      \
	VPSHUFB Y14, b0, b0     \
	VPSHUFB Y14, b1, b1     \
	MUL(a0, b0, Y8)         \
	MUL(a1, b1, Y9)         \
	VPXOR   a0, d0, d0      \
	VPXOR   a1, d1, d1      \
	VPSHUFB Y15, d0, d0     \
	VPSHUFB Y15, d1, d1     \
	MUL(c0, d0, Y8)         \
	MUL(c1, d1, Y9)         \
	VPXOR   c0, b0, b0      \
	VPXOR   c1, b1, b1      \
	VPADDQ  b0, b0, Y8      \
	VPADDQ  b1, b1, Y9      \
	VPSRLQ  $63, b0, b0     \
	VPSRLQ  $63, b1, b1     \
	VPOR    Y8, b0, b0      \
	VPOR    Y9, b1, b1

// LOAD is a part of the XOR of both blocks.
#define LOAD(y, at) \
	VMOVDQU at(SI)(BX*1), y    \
	VPXOR   at(DX)(BX*1), y, y

// KEEP puts it where the result will be, KEEPXOR under what is there.
#define KEEP(y, at) \
	VMOVDQU y, at(DI)(BX*1)

#define KEEPXOR(y, at) \
	VPXOR   at(DI)(BX*1), y, Y8 \
	VMOVDQU Y8, at(DI)(BX*1)

#define SAVE(y, at) \
	VMOVDQU y, at(R8)(BX*1)

#define BACK(y, at) \
	VMOVDQU at(R8)(BX*1), y

// ADD puts a part of the result.
#define ADD(y, at) \
	VPXOR   at(DI)(BX*1), y, y \
	VMOVDQU y, at(DI)(BX*1)

// FILL is the body of both functions. A block is eight rows of 128 bytes: first P of two rows at
// a time, then of two columns of 16 bytes at a time.
#define FILL(keep) \
	MOVQ    dst+0(FP), DI     \
	MOVQ    prev+8(FP), SI    \
	MOVQ    ref+16(FP), DX    \
	LEAQ    state-1024(SP), R8 \
	VMOVDQU rot24<>(SB), Y14  \
	VMOVDQU rot16<>(SB), Y15  \
	XORQ    BX, BX            \
rows:                         \
	LOAD(Y0, 0)               \
	LOAD(Y1, 32)              \
	LOAD(Y2, 64)              \
	LOAD(Y3, 96)              \
	LOAD(Y4, 128)             \
	LOAD(Y5, 160)             \
	LOAD(Y6, 192)             \
	LOAD(Y7, 224)             \
	keep(Y0, 0)               \
	keep(Y1, 32)              \
	keep(Y2, 64)              \
	keep(Y3, 96)              \
	keep(Y4, 128)             \
	keep(Y5, 160)             \
	keep(Y6, 192)             \
	keep(Y7, 224)             \
	QUARTERS(Y0, Y1, Y2, Y3, Y4, Y5, Y6, Y7) \
	VPERMQ  $0x39, Y1, Y1     \
	VPERMQ  $0x4e, Y2, Y2     \
	VPERMQ  $0x93, Y3, Y3     \
	VPERMQ  $0x39, Y5, Y5     \
	VPERMQ  $0x4e, Y6, Y6     \
	VPERMQ  $0x93, Y7, Y7     \
	QUARTERS(Y0, Y1, Y2, Y3, Y4, Y5, Y6, Y7) \
	VPERMQ  $0x93, Y1, Y1     \
	VPERMQ  $0x4e, Y2, Y2     \
	VPERMQ  $0x39, Y3, Y3     \
	VPERMQ  $0x93, Y5, Y5     \
	VPERMQ  $0x4e, Y6, Y6     \
	VPERMQ  $0x39, Y7, Y7     \
	SAVE(Y0, 0)               \
	SAVE(Y1, 32)              \
	SAVE(Y2, 64)              \
	SAVE(Y3, 96)              \
	SAVE(Y4, 128)             \
	SAVE(Y5, 160)             \
	SAVE(Y6, 192)             \
	SAVE(Y7, 224)             \
	ADDQ    $256, BX          \
	CMPQ    BX, $1024         \
	JB      rows              \
	XORQ    BX, BX            \
columns:                      \
	BACK(Y0, 0)               \
	BACK(Y1, 128)             \
	BACK(Y2, 256)             \
	BACK(Y3, 384)             \
	BACK(Y4, 512)             \
	BACK(Y5, 640)             \
	BACK(Y6, 768)             \
	BACK(Y7, 896)             \
	QUARTERS(Y0, Y2, Y4, Y6, Y1, Y3, Y5, Y7) \
	VPALIGNR $8, Y2, Y3, Y10  \
	VPALIGNR $8, Y3, Y2, Y11  \
	VPALIGNR $8, Y7, Y6, Y12  \
	VPALIGNR $8, Y6, Y7, Y13  \
	QUARTERS(Y0, Y10, Y5, Y12, Y1, Y11, Y4, Y13) \
	VPALIGNR $8, Y11, Y10, Y2 \
	VPALIGNR $8, Y10, Y11, Y3 \
	VPALIGNR $8, Y12, Y13, Y6 \
	VPALIGNR $8, Y13, Y12, Y7 \
	ADD(Y0, 0)                \
	ADD(Y1, 128)              \
	ADD(Y2, 256)              \
	ADD(Y3, 384)              \
	ADD(Y4, 512)              \
	ADD(Y5, 640)              \
	ADD(Y6, 768)              \
	ADD(Y7, 896)              \
	ADDQ    $32, BX           \
	CMPQ    BX, $128          \
	JB      columns           \
	VZEROUPPER                \
	RET

// func fill(dst, prev, ref *byte)
TEXT ·fill(SB), $1024-24
	FILL(KEEP)

// func fillXOR(dst, prev, ref *byte)
TEXT ·fillXOR(SB), $1024-24
	FILL(KEEPXOR)
