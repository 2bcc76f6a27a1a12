/* A streaming matcher (Knuth, Morris, Pratt) as a tap: see text-match.h. */
#include "engine/chardev/text-match.h"

#include <string.h>

struct TextMatch {
    Chardev *chr;
    bool from_guest;
    TextMatchFn fn;
    void *opaque;
    uint64_t seen; /* number of the next byte */
    uint64_t hits;
    size_t at; /* bytes of the text matched so far */
    unsigned busy;
    bool freed;
    size_t len;
    const uint8_t *text;
    size_t back[]; /* back[i]: the longest proper border of the first i + 1 bytes */
};

static void really_free(TextMatch *m)
{
    object_unref(m->chr);
    g_free((void *)(uintptr_t)m->text);
    g_free(m);
}

static unsigned feed(TextMatch *m, const uint8_t *buf, size_t len)
{
    unsigned found = 0;

    m->busy++;
    for (size_t i = 0; i < len && !m->freed; i++) {
        while (m->at > 0 && m->text[m->at] != buf[i]) {
            m->at = m->back[m->at - 1];
        }
        if (m->text[m->at] == buf[i]) {
            m->at++;
        }
        m->seen++;
        if (m->at == m->len) {
            m->at = 0;
            m->hits++;
            found++;
            m->fn(m->opaque, m->seen);
        }
    }
    if (--m->busy == 0 && m->freed) {
        really_free(m);
    }
    return found;
}

static void tap(void *opaque, const uint8_t *buf, size_t len, bool from_guest)
{
    TextMatch *m = opaque;

    if (from_guest == m->from_guest) {
        feed(m, buf, len);
    }
}

TextMatch *text_match_new_bytes(Chardev *chr, const void *text, size_t len, bool from_guest,
                                TextMatchFn fn, void *opaque)
{
    TextMatch *m;

    if (len == 0) {
        return NULL;
    }
    m = g_malloc0(sizeof(*m) + len * sizeof(m->back[0]));
    m->chr = CHARDEV(object_ref(chr));
    m->text = g_memdup2(text, len);
    m->len = len;
    m->from_guest = from_guest;
    m->fn = fn;
    m->opaque = opaque;
    m->seen = from_guest ? chr->bytes_out : chr->bytes_in;
    for (size_t i = 1, k = 0; i < len; i++) {
        while (k > 0 && m->text[k] != m->text[i]) {
            k = m->back[k - 1];
        }
        k += m->text[k] == m->text[i];
        m->back[i] = k;
    }
    chardev_add_tap(chr, tap, m);
    return m;
}

TextMatch *text_match_new(Chardev *chr, const char *text, bool from_guest, TextMatchFn fn,
                          void *opaque)
{
    return text_match_new_bytes(chr, text, strlen(text), from_guest, fn, opaque);
}

void text_match_free(TextMatch *m)
{
    if (!m || m->freed) {
        return;
    }
    chardev_remove_tap(m->chr, tap, m);
    if (m->busy) {
        m->freed = true;
    } else {
        really_free(m);
    }
}

unsigned text_match_look_back(TextMatch *m, uint64_t since)
{
    size_t len;
    const uint8_t *history = chardev_history(m->chr, &len);
    uint64_t first = m->chr->bytes_out - len;
    g_autofree uint8_t *copy = NULL;

    if (!m->from_guest || !history || since >= m->chr->bytes_out) {
        return 0;
    }
    if (since > first) {
        history += since - first;
        len -= since - first;
        first = since;
    }
    /* A copy: what fn does may make the guest write, which moves the history. */
    copy = g_memdup2(history, len);
    m->at = 0;
    m->seen = first;
    return feed(m, copy, len);
}

uint64_t text_match_hits(const TextMatch *m)
{
    return m->hits;
}
