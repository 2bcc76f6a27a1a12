/*
 * The keys of a PC keyboard: name (as command lines and QMP clients spell it), number of the key in
 * Linux' input events, codes in sets 2 and 3 of an IBM keyboard (0xe0xx: after an E0 prefix; 0: has
 * none, or one that does not follow the pattern). Set 1 is what a keyboard controller makes of set
 * 2.
 *
 * IBM PS/2 Hardware Interface Technical Reference, "Keyboards (101- and 102-key)"; USB HID to PS/2
 * Scan Code Translation Table (Microsoft, 1.3) for keys that came later.
 */
#pragma once

/* X(ENUM, "name", evdev, set 2, set 3) */
#define INPUT_KEYS(X)                                 \
    X(ESC, "esc", 1, 0x76, 0x08)                      \
    X(1, "1", 2, 0x16, 0x16)                          \
    X(2, "2", 3, 0x1e, 0x1e)                          \
    X(3, "3", 4, 0x26, 0x26)                          \
    X(4, "4", 5, 0x25, 0x25)                          \
    X(5, "5", 6, 0x2e, 0x2e)                          \
    X(6, "6", 7, 0x36, 0x36)                          \
    X(7, "7", 8, 0x3d, 0x3d)                          \
    X(8, "8", 9, 0x3e, 0x3e)                          \
    X(9, "9", 10, 0x46, 0x46)                         \
    X(0, "0", 11, 0x45, 0x45)                         \
    X(MINUS, "minus", 12, 0x4e, 0x4e)                 \
    X(EQUAL, "equal", 13, 0x55, 0x55)                 \
    X(BACKSPACE, "backspace", 14, 0x66, 0x66)         \
    X(TAB, "tab", 15, 0x0d, 0x0d)                     \
    X(Q, "q", 16, 0x15, 0x15)                         \
    X(W, "w", 17, 0x1d, 0x1d)                         \
    X(E, "e", 18, 0x24, 0x24)                         \
    X(R, "r", 19, 0x2d, 0x2d)                         \
    X(T, "t", 20, 0x2c, 0x2c)                         \
    X(Y, "y", 21, 0x35, 0x35)                         \
    X(U, "u", 22, 0x3c, 0x3c)                         \
    X(I, "i", 23, 0x43, 0x43)                         \
    X(O, "o", 24, 0x44, 0x44)                         \
    X(P, "p", 25, 0x4d, 0x4d)                         \
    X(BRACKET_LEFT, "bracket_left", 26, 0x54, 0x54)   \
    X(BRACKET_RIGHT, "bracket_right", 27, 0x5b, 0x5b) \
    X(RET, "ret", 28, 0x5a, 0x5a)                     \
    X(CTRL, "ctrl", 29, 0x14, 0x11)                   \
    X(A, "a", 30, 0x1c, 0x1c)                         \
    X(S, "s", 31, 0x1b, 0x1b)                         \
    X(D, "d", 32, 0x23, 0x23)                         \
    X(F, "f", 33, 0x2b, 0x2b)                         \
    X(G, "g", 34, 0x34, 0x34)                         \
    X(H, "h", 35, 0x33, 0x33)                         \
    X(J, "j", 36, 0x3b, 0x3b)                         \
    X(K, "k", 37, 0x42, 0x42)                         \
    X(L, "l", 38, 0x4b, 0x4b)                         \
    X(SEMICOLON, "semicolon", 39, 0x4c, 0x4c)         \
    X(APOSTROPHE, "apostrophe", 40, 0x52, 0x52)       \
    X(GRAVE, "grave_accent", 41, 0x0e, 0x0e)          \
    X(SHIFT, "shift", 42, 0x12, 0x12)                 \
    X(BACKSLASH, "backslash", 43, 0x5d, 0x5c)         \
    X(Z, "z", 44, 0x1a, 0x1a)                         \
    X(X, "x", 45, 0x22, 0x22)                         \
    X(C, "c", 46, 0x21, 0x21)                         \
    X(V, "v", 47, 0x2a, 0x2a)                         \
    X(B, "b", 48, 0x32, 0x32)                         \
    X(N, "n", 49, 0x31, 0x31)                         \
    X(M, "m", 50, 0x3a, 0x3a)                         \
    X(COMMA, "comma", 51, 0x41, 0x41)                 \
    X(DOT, "dot", 52, 0x49, 0x49)                     \
    X(SLASH, "slash", 53, 0x4a, 0x4a)                 \
    X(SHIFT_R, "shift_r", 54, 0x59, 0x59)             \
    X(KP_MULTIPLY, "kp_multiply", 55, 0x7c, 0x7e)     \
    X(ALT, "alt", 56, 0x11, 0x19)                     \
    X(SPC, "spc", 57, 0x29, 0x29)                     \
    X(CAPS_LOCK, "caps_lock", 58, 0x58, 0x14)         \
    X(F1, "f1", 59, 0x05, 0x07)                       \
    X(F2, "f2", 60, 0x06, 0x0f)                       \
    X(F3, "f3", 61, 0x04, 0x17)                       \
    X(F4, "f4", 62, 0x0c, 0x1f)                       \
    X(F5, "f5", 63, 0x03, 0x27)                       \
    X(F6, "f6", 64, 0x0b, 0x2f)                       \
    X(F7, "f7", 65, 0x83, 0x37)                       \
    X(F8, "f8", 66, 0x0a, 0x3f)                       \
    X(F9, "f9", 67, 0x01, 0x47)                       \
    X(F10, "f10", 68, 0x09, 0x4f)                     \
    X(NUM_LOCK, "num_lock", 69, 0x77, 0x76)           \
    X(SCROLL_LOCK, "scroll_lock", 70, 0x7e, 0x5f)     \
    X(KP_7, "kp_7", 71, 0x6c, 0x6c)                   \
    X(KP_8, "kp_8", 72, 0x75, 0x75)                   \
    X(KP_9, "kp_9", 73, 0x7d, 0x7d)                   \
    X(KP_SUBTRACT, "kp_subtract", 74, 0x7b, 0x84)     \
    X(KP_4, "kp_4", 75, 0x6b, 0x6b)                   \
    X(KP_5, "kp_5", 76, 0x73, 0x73)                   \
    X(KP_6, "kp_6", 77, 0x74, 0x74)                   \
    X(KP_ADD, "kp_add", 78, 0x79, 0x7c)               \
    X(KP_1, "kp_1", 79, 0x69, 0x69)                   \
    X(KP_2, "kp_2", 80, 0x72, 0x72)                   \
    X(KP_3, "kp_3", 81, 0x7a, 0x7a)                   \
    X(KP_0, "kp_0", 82, 0x70, 0x70)                   \
    X(KP_DECIMAL, "kp_decimal", 83, 0x71, 0x71)       \
    X(LESS, "less", 86, 0x61, 0x13)                   \
    X(F11, "f11", 87, 0x78, 0x56)                     \
    X(F12, "f12", 88, 0x07, 0x5e)                     \
    X(RO, "ro", 89, 0x51, 0x51)                       \
    X(HENKAN, "henkan", 92, 0x64, 0x86)               \
    X(HIRAGANA, "hiragana", 93, 0x13, 0x87)           \
    X(MUHENKAN, "muhenkan", 94, 0x67, 0x85)           \
    X(KP_ENTER, "kp_enter", 96, 0xe05a, 0x79)         \
    X(CTRL_R, "ctrl_r", 97, 0xe014, 0x58)             \
    X(KP_DIVIDE, "kp_divide", 98, 0xe04a, 0x77)       \
    X(PRINT, "print", 99, 0, 0x57)                    \
    X(ALT_R, "alt_r", 100, 0xe011, 0x39)              \
    X(HOME, "home", 102, 0xe06c, 0x6e)                \
    X(UP, "up", 103, 0xe075, 0x63)                    \
    X(PGUP, "pgup", 104, 0xe07d, 0x6f)                \
    X(LEFT, "left", 105, 0xe06b, 0x61)                \
    X(RIGHT, "right", 106, 0xe074, 0x6a)              \
    X(END, "end", 107, 0xe069, 0x65)                  \
    X(DOWN, "down", 108, 0xe072, 0x60)                \
    X(PGDN, "pgdn", 109, 0xe07a, 0x6d)                \
    X(INSERT, "insert", 110, 0xe070, 0x67)            \
    X(DELETE, "delete", 111, 0xe071, 0x64)            \
    X(MUTE, "audiomute", 113, 0xe023, 0)              \
    X(VOLUMEDOWN, "volumedown", 114, 0xe021, 0)       \
    X(VOLUMEUP, "volumeup", 115, 0xe032, 0)           \
    X(POWER, "power", 116, 0xe037, 0)                 \
    X(KP_EQUALS, "kp_equals", 117, 0x0f, 0)           \
    X(PAUSE, "pause", 119, 0, 0x62)                   \
    X(KP_COMMA, "kp_comma", 121, 0x6d, 0)             \
    X(LANG1, "lang1", 122, 0xf2, 0)                   \
    X(LANG2, "lang2", 123, 0xf1, 0)                   \
    X(YEN, "yen", 124, 0x6a, 0x5d)                    \
    X(META_L, "meta_l", 125, 0xe01f, 0x8b)            \
    X(META_R, "meta_r", 126, 0xe027, 0x8c)            \
    X(MENU, "menu", 127, 0xe02f, 0x8d)                \
    X(CALCULATOR, "calculator", 140, 0xe02b, 0)       \
    X(SLEEP, "sleep", 142, 0xe03f, 0)                 \
    X(WAKE, "wake", 143, 0xe05e, 0)                   \
    X(MAIL, "mail", 155, 0xe048, 0)                   \
    X(COMPUTER, "computer", 157, 0xe040, 0)           \
    X(AC_BACK, "ac_back", 158, 0xe038, 0)             \
    X(AC_FORWARD, "ac_forward", 159, 0xe030, 0)       \
    X(AUDIONEXT, "audionext", 163, 0xe04d, 0)         \
    X(AUDIOPLAY, "audioplay", 164, 0xe034, 0)         \
    X(AUDIOPREV, "audioprev", 165, 0xe015, 0)         \
    X(AUDIOSTOP, "audiostop", 166, 0xe03b, 0)         \
    X(AC_HOME, "ac_home", 172, 0xe03a, 0)             \
    X(AC_REFRESH, "ac_refresh", 173, 0xe020, 0)       \
    X(AC_BOOKMARKS, "ac_bookmarks", 156, 0xe018, 0)   \
    X(MEDIASELECT, "mediaselect", 226, 0xe050, 0)
