/*
 * Waits for a text among the bytes of a chardev: a plain substring, found across the borders of
 * what was written at once, in constant memory and one step a byte. Engine lock.
 */
#pragma once

#include "engine/chardev/chardev.h"

typedef struct TextMatch TextMatch;
/* `end`: the number of the byte after the match; for what the guest writes it counts as
 * Chardev.bytes_out does. Called where the byte was written; may free the matcher, may not write to
 * the same chardev. */
typedef void (*TextMatchFn)(void *opaque, uint64_t end);

/* from_guest: among what the guest writes, else among what it is sent. Matches do not overlap.
 * Holds a reference on the chardev. NULL for an empty text. */
TextMatch *text_match_new(Chardev *chr, const char *text, bool from_guest, TextMatchFn fn,
                          void *opaque);
/* The same for bytes that may hold zeros. */
TextMatch *text_match_new_bytes(Chardev *chr, const void *text, size_t len, bool from_guest,
                                TextMatchFn fn, void *opaque);
void text_match_free(TextMatch *m); /* NULL is ignored */
/* Looks at what the guest has written already, from byte number `since` on, as far as the history
 * goes: so that what came just before waiting began is not missed, and a match may begin there and
 * end in what is still to come. Right after making the matcher. Returns the matches found now, for
 * each of which fn has run (it may have freed the matcher). */
unsigned text_match_look_back(TextMatch *m, uint64_t since);
uint64_t text_match_hits(const TextMatch *m);
