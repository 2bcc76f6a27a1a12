/*
 * The binary stream of saved state.
 *
 *   header   "VMLUAST\0", u32 format version, u32 flags
 *   section  u8 1, str name, u32 instance, u32 version, u64 length, bytes…       (repeated)
 *   end      u8 0, u32 CRC-32C of everything before
 * All little-endian; str is u16 length + UTF-8. A reader is bounded by the buffer it was given and
 * never trusts a length.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct StateWriter StateWriter;
typedef struct StateReader StateReader;

StateWriter *state_writer_new(void); /* header written */
void state_writer_free(StateWriter *w);
/* Inside a section only. */
void state_put_u8(StateWriter *w, uint8_t v);
void state_put_u16(StateWriter *w, uint16_t v);
void state_put_u32(StateWriter *w, uint32_t v);
void state_put_u64(StateWriter *w, uint64_t v);
void state_put_bytes(StateWriter *w, const void *data, size_t len);
void state_put_str(StateWriter *w, const char *s); /* at most 65535 bytes of UTF-8 */
void state_section_begin(StateWriter *w, const char *name, uint32_t instance, uint32_t version);
void state_section_end(StateWriter *w);
GBytes *state_writer_finish(StateWriter *w); /* end mark and checksum; frees w */

/* Checks header and checksum first. NULL + error (ENGINE_ERROR_CORRUPT). Keeps a reference to
 * `bytes`. */
StateReader *state_reader_new(GBytes *bytes, GError **error);
void state_reader_free(StateReader *r);
/* All getters: after the first failure everything reads as 0 and state_reader_ok is false. */
uint8_t state_get_u8(StateReader *r);
uint16_t state_get_u16(StateReader *r);
uint32_t state_get_u32(StateReader *r);
uint64_t state_get_u64(StateReader *r);
bool state_get_bytes(StateReader *r, void *data, size_t len);
char *state_get_str(StateReader *r); /* caller frees; NULL on failure */
/* false at the end mark or after a failure. `name` is borrowed until the next call. A section that
 * was not read to its end is a failure: state that nobody took would be lost. */
bool state_next_section(StateReader *r, const char **name, uint32_t *instance, uint32_t *version);
void state_section_skip(StateReader *r); /* takes the rest of the section on purpose */
size_t state_section_left(StateReader *r);
bool state_reader_ok(StateReader *r, GError **error);

/* CRC-32C (Castagnoli) of more data; start with 0. */
uint32_t state_crc32c(uint32_t crc, const void *data, size_t len);
