/* Includes the file QN_SELF, which includes this one last, back twice: with QN_ACT, the type of act, float and qn_bf16.
 * There QN_LANES(name) is the symbol of an entry. */
#define QN_ACT         float
#define QN_LANES(name) QN_LANES_F32(name)
#include QN_SELF
#undef QN_LANES
#undef QN_ACT

#define QN_ACT         qn_bf16
#define QN_LANES(name) QN_ENTRY_NAME(name, QN_LANES_SUFFIX(bf16, QN_ISA))
#include QN_SELF
#undef QN_LANES
#undef QN_ACT
