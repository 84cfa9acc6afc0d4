//go:build gc && !purego

#include "textflag.h"

DATA one<>+0(SB)/8, $1
DATA one<>+8(SB)/8, $0
GLOBL one<>(SB), RODATA|NOPTR, $16

// LANE takes the counter for a lane, under the first round key, and counts on: only the
// first 32 bits, without a carry.
#define LANE(x) \
	MOVO  X10, x \
	PXOR  X8, x  \
	PADDL X9, X10

// ROUND is a round of all lanes.
#define ROUND(op, key) \
	MOVOU (16*key)(AX), X8 \
	op    X8, X0           \
	op    X8, X1           \
	op    X8, X2           \
	op    X8, X3           \
	op    X8, X4           \
	op    X8, X5           \
	op    X8, X6           \
	op    X8, X7

// XOR writes a lane. The loads need not be aligned; an operand in memory would have to be.
#define XOR(x, at) \
	MOVOU (16*at)(SI), X8 \
	PXOR  X8, x           \
	MOVOU x, (16*at)(DI)

// LOAD takes a block for a lane, under its mask and the first round key.
#define LOAD(x, at) \
	MOVOU (16*at)(SI), x  \
	MOVOU (16*at)(DX), X8 \
	PXOR  X8, x           \
	PXOR  X9, x

// STORE writes a lane under its mask.
#define STORE(x, at) \
	MOVOU (16*at)(DX), X8 \
	PXOR  X8, x           \
	MOVOU x, (16*at)(DI)

// MASKED is the body of encryptMasked and decryptMasked.
#define MASKED(op, oplast) \
	MOVQ  keys+0(FP), AX   \
	MOVQ  dst+8(FP), DI    \
	MOVQ  src+16(FP), SI   \
	MOVQ  masks+24(FP), DX \
	MOVQ  blocks+32(FP), CX\
	MOVOU (AX), X9         \
loop:                      \
	SUBQ  $8, CX           \
	JLT   done             \
	LOAD(X0, 0)            \
	LOAD(X1, 1)            \
	LOAD(X2, 2)            \
	LOAD(X3, 3)            \
	LOAD(X4, 4)            \
	LOAD(X5, 5)            \
	LOAD(X6, 6)            \
	LOAD(X7, 7)            \
	ROUND(op, 1)           \
	ROUND(op, 2)           \
	ROUND(op, 3)           \
	ROUND(op, 4)           \
	ROUND(op, 5)           \
	ROUND(op, 6)           \
	ROUND(op, 7)           \
	ROUND(op, 8)           \
	ROUND(op, 9)           \
	ROUND(op, 10)          \
	ROUND(op, 11)          \
	ROUND(op, 12)          \
	ROUND(op, 13)          \
	ROUND(oplast, 14)      \
	STORE(X0, 0)           \
	STORE(X1, 1)           \
	STORE(X2, 2)           \
	STORE(X3, 3)           \
	STORE(X4, 4)           \
	STORE(X5, 5)           \
	STORE(X6, 6)           \
	STORE(X7, 7)           \
	ADDQ  $128, SI         \
	ADDQ  $128, DI         \
	ADDQ  $128, DX         \
	JMP   loop             \
done:                      \
	RET

// func encryptMasked(keys *Schedule, dst, src, masks *byte, blocks int)
TEXT ·encryptMasked(SB), NOSPLIT, $0-40
	MASKED(AESENC, AESENCLAST)

// func decryptMasked(keys *Schedule, dst, src, masks *byte, blocks int)
TEXT ·decryptMasked(SB), NOSPLIT, $0-40
	MASKED(AESDEC, AESDECLAST)

// func inverse(dst, src *Schedule)
TEXT ·inverse(SB), NOSPLIT, $0-16
	MOVQ  dst+0(FP), DI
	MOVQ  src+8(FP), SI
	MOVOU (16*14)(SI), X0
	MOVOU X0, (DI)
	MOVQ  $13, CX
	LEAQ  (16*13)(SI), BX

next:
	ADDQ   $16, DI
	MOVOU  (BX), X0
	AESIMC X0, X0
	MOVOU  X0, (DI)
	SUBQ   $16, BX
	SUBQ   $1, CX
	JNZ    next
	MOVOU  (SI), X0
	MOVOU  X0, 16(DI)
	RET

// func xorBlocks(keys *Schedule, counter *[16]byte, dst, src *byte, blocks int)
TEXT ·xorBlocks(SB), NOSPLIT, $0-40
	MOVQ  keys+0(FP), AX
	MOVQ  counter+8(FP), BX
	MOVQ  dst+16(FP), DI
	MOVQ  src+24(FP), SI
	MOVQ  blocks+32(FP), CX
	MOVOU (BX), X10
	MOVOU one<>(SB), X9

loop:
	SUBQ  $8, CX
	JLT   done
	MOVOU (AX), X8
	LANE(X0)
	LANE(X1)
	LANE(X2)
	LANE(X3)
	LANE(X4)
	LANE(X5)
	LANE(X6)
	LANE(X7)
	ROUND(AESENC, 1)
	ROUND(AESENC, 2)
	ROUND(AESENC, 3)
	ROUND(AESENC, 4)
	ROUND(AESENC, 5)
	ROUND(AESENC, 6)
	ROUND(AESENC, 7)
	ROUND(AESENC, 8)
	ROUND(AESENC, 9)
	ROUND(AESENC, 10)
	ROUND(AESENC, 11)
	ROUND(AESENC, 12)
	ROUND(AESENC, 13)
	ROUND(AESENCLAST, 14)
	XOR(X0, 0)
	XOR(X1, 1)
	XOR(X2, 2)
	XOR(X3, 3)
	XOR(X4, 4)
	XOR(X5, 5)
	XOR(X6, 6)
	XOR(X7, 7)
	ADDQ $128, SI
	ADDQ $128, DI
	JMP  loop

done:
	MOVOU X10, (BX)
	RET

// func subWord(w uint32) uint32
TEXT ·subWord(SB), NOSPLIT, $0-12
	MOVL            w+0(FP), X0
	PSHUFL          $0, X0, X0
	AESKEYGENASSIST $0, X0, X0 // its first word is SubWord of the second
	MOVL            X0, ret+8(FP)
	RET
