/* The terminal's modes: see tty.h. */
#include "engine/chardev/tty.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "engine/core/error.h"

/* Signals that end the process unless somebody handles them. A handler that is there already is
 * left alone: it leads to exit(), and exit restores. */
static const int ending[] = { SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGSEGV, SIGBUS,
                              SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS,  SIGXCPU };

/* Faults are also taken over from sanitizers and crash reporters, which run afterwards. */
static bool is_fault(int sig)
{
    return sig == SIGSEGV || sig == SIGBUS || sig == SIGFPE || sig == SIGILL || sig == SIGABRT;
}

static int tty_fd = -1;
static volatile sig_atomic_t tty_raw; /* tty_saved is to be put back */
static struct termios tty_saved, tty_wanted;
static struct sigaction old_action[G_N_ELEMENTS(ending)];
static bool taken[G_N_ELEMENTS(ending)], cont_taken, stop_taken;

/* Async-signal-safe. SIGTTOU is blocked because changing modes from the background raises it; and
 * there the modes belong to the shell, which has put its own in place. */
static void set_modes(const struct termios *modes)
{
    sigset_t ttou, before;
    int saved = errno;

    sigemptyset(&ttou);
    sigaddset(&ttou, SIGTTOU);
    pthread_sigmask(SIG_BLOCK, &ttou, &before);
    if (tcgetpgrp(tty_fd) == getpgrp()) {
        while (tcsetattr(tty_fd, TCSANOW, modes) != 0 && errno == EINTR) {
            /* again */
        }
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    errno = saved;
}

void tty_restore_in_signal(void)
{
    if (tty_raw) {
        tty_raw = 0;
        set_modes(&tty_saved);
    }
}

static void ending_signal(int sig, siginfo_t *info, void *context)
{
    tty_restore_in_signal();
    for (unsigned i = 0; i < G_N_ELEMENTS(ending); i++) {
        if (ending[i] == sig) {
            sigaction(sig, &old_action[i], NULL);
        }
    }
    /* A fault happens again when the instruction does, now to the handler that was here before;
     * what was sent by kill or abort is sent on. */
    if (!is_fault(sig) || info->si_code <= 0) {
        raise(sig);
    }
}

static void continued(int sig)
{
    if (tty_raw) {
        set_modes(&tty_wanted);
    }
}

/* Ctrl-Z of a terminal with signal=on, or from a shell's kill: what runs there next finds its
 * modes.
 */
static void stopping(int sig)
{
    int saved = errno;

    if (tty_raw) {
        set_modes(&tty_saved);
    }
    raise(SIGSTOP);
    errno = saved;
}

static void take_signals(void)
{
    struct sigaction act = { .sa_sigaction = ending_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK };
    struct sigaction cont = { .sa_handler = continued, .sa_flags = SA_RESTART }, now;
    struct sigaction stop = { .sa_handler = stopping, .sa_flags = SA_RESTART };

    sigemptyset(&act.sa_mask);
    sigemptyset(&cont.sa_mask);
    sigemptyset(&stop.sa_mask);
    for (unsigned i = 0; i < G_N_ELEMENTS(ending); i++) {
        sigaction(ending[i], NULL, &now);
        taken[i] = now.sa_handler == SIG_DFL || (is_fault(ending[i]) && now.sa_handler != SIG_IGN);
        if (taken[i]) {
            sigaction(ending[i], &act, &old_action[i]);
        }
    }
    sigaction(SIGCONT, NULL, &now);
    cont_taken = now.sa_handler == SIG_DFL;
    if (cont_taken) {
        sigaction(SIGCONT, &cont, NULL);
    }
    sigaction(SIGTSTP, NULL, &now);
    stop_taken = now.sa_handler == SIG_DFL;
    if (stop_taken) {
        sigaction(SIGTSTP, &stop, NULL);
    }
}

/* Handlers that somebody put over ours stay. */
static void give_back_signals(void)
{
    struct sigaction now;

    for (unsigned i = 0; i < G_N_ELEMENTS(ending); i++) {
        if (taken[i] && sigaction(ending[i], NULL, &now) == 0 &&
            now.sa_sigaction == ending_signal) {
            sigaction(ending[i], &old_action[i], NULL);
        }
        taken[i] = false;
    }
    if (cont_taken && sigaction(SIGCONT, NULL, &now) == 0 && now.sa_handler == continued) {
        signal(SIGCONT, SIG_DFL);
    }
    cont_taken = false;
    if (stop_taken && sigaction(SIGTSTP, NULL, &now) == 0 && now.sa_handler == stopping) {
        signal(SIGTSTP, SIG_DFL);
    }
    stop_taken = false;
}

void tty_leave_raw(void)
{
    if (!tty_raw) {
        return;
    }
    tty_raw = 0;
    set_modes(&tty_saved);
    give_back_signals();
}

bool tty_enter_raw(int fd, bool signals, GError **error)
{
    static bool at_exit;
    struct termios modes;

    if (tty_raw) {
        return error_set(error, ENGINE_ERROR_BUSY, "the terminal is in raw mode already");
    }
    if (tcgetattr(fd, &modes) != 0) {
        return error_set_errno(error, "modes of the terminal");
    }
    tty_fd = fd;
    tty_saved = tty_wanted = modes;
    tty_wanted.c_iflag &= ~(tcflag_t)(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL |
                                      IXON);
    tty_wanted.c_lflag &= ~(tcflag_t)(ECHO | ECHONL | ICANON | IEXTEN);
    if (!signals) {
        tty_wanted.c_lflag &= ~(tcflag_t)ISIG;
    }
    tty_wanted.c_cflag &= ~(tcflag_t)(CSIZE | PARENB);
    tty_wanted.c_cflag |= CS8;
    tty_wanted.c_cc[VMIN] = 1;
    tty_wanted.c_cc[VTIME] = 0;
    if (!at_exit) {
        at_exit = true;
        atexit(tty_leave_raw);
    }
    take_signals();
    tty_raw = 1;
    set_modes(&tty_wanted);
    return true;
}
