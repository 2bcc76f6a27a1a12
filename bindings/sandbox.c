/*
 * process.sandbox: after it, all threads of the process are refused (EPERM) system calls that a
 * machine monitor has no use for. A seccomp filter by number; what it allows without looking at
 * arguments costs nothing on kernels that remember it (5.11).
 *
 * A list of what is refused, not of what is allowed: scripts and their C modules may need anything
 * else. io_uring, opened before, is out of its sight.
 */
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "bindings/binding-priv.h"

#define X32_BIT 0x40000000u

typedef struct Group {
    const char *name; /* key of the options; NULL: always */
    const int *calls; /* ends with -1 */
} Group;

/* Changing the whole host, looking into other processes, and what history has left. */
static const int always[] = {
    SYS_reboot,
    SYS_swapon,
    SYS_swapoff,
    SYS_kexec_load,
    SYS_kexec_file_load,
    SYS_init_module,
    SYS_finit_module,
    SYS_delete_module,
    SYS_mount,
    SYS_umount2,
    SYS_pivot_root,
    SYS_chroot,
    SYS_move_mount,
    SYS_open_tree,
    SYS_fsopen,
    SYS_fsconfig,
    SYS_fsmount,
    SYS_fspick,
    SYS_acct,
    SYS_quotactl,
    SYS_settimeofday,
    SYS_clock_settime,
    SYS_adjtimex,
    SYS_clock_adjtime,
    SYS_sethostname,
    SYS_setdomainname,
    SYS_iopl,
    SYS_ioperm,
    SYS_syslog,
    SYS_vhangup,
    SYS_ptrace,
    SYS_process_vm_readv,
    SYS_process_vm_writev,
    SYS_kcmp,
    SYS_add_key,
    SYS_request_key,
    SYS_keyctl,
    SYS_bpf,
    SYS_perf_event_open,
    SYS_unshare,
    SYS_setns,
    SYS_open_by_handle_at,
    SYS_fanotify_init,
    SYS_personality,
    SYS_modify_ldt,
    SYS_uselib,
    SYS_ustat,
    SYS_sysfs,
    SYS__sysctl,
    SYS_lookup_dcookie,
    SYS_nfsservctl,
    SYS_create_module,
    SYS_query_module,
    SYS_get_kernel_syms,
    -1,
};
/* clone without CLONE_THREAD, too; clone3 looks absent, so that threads are made by clone. */
static const int spawn_calls[] = { SYS_fork, SYS_vfork, SYS_execve, SYS_execveat, -1 };
static const int privilege_calls[] = {
    SYS_setuid,    SYS_setgid,    SYS_setreuid, SYS_setregid,
    SYS_setresuid, SYS_setresgid, SYS_setfsuid, SYS_setfsgid,
    SYS_setgroups, SYS_capset,    -1,
};
/* prlimit64 that sets, too. */
static const int resource_calls[] = {
    SYS_setpriority,       SYS_sched_setparam, SYS_sched_setscheduler, SYS_sched_setattr,
    SYS_sched_setaffinity, SYS_ioprio_set,     SYS_setrlimit,          SYS_mbind,
    SYS_set_mempolicy,     SYS_migrate_pages,  SYS_move_pages,         -1,
};
static const Group groups[] = {
    { NULL, always },
    { "spawn", spawn_calls },
    { "elevateprivileges", privilege_calls },
    { "resourcecontrol", resource_calls },
};

static void add(GArray *prog, uint16_t code, uint32_t k, uint8_t jt, uint8_t jf)
{
    const struct sock_filter f = { code, jt, jf, k };
    g_array_append_val(prog, f);
}

static void load(GArray *prog, size_t offset)
{
    add(prog, BPF_LD | BPF_W | BPF_ABS, (uint32_t)offset, 0, 0);
}

static void answer(GArray *prog, uint32_t what)
{
    add(prog, BPF_RET | BPF_K, what, 0, 0);
}

static void refuse_call(GArray *prog, int nr, uint32_t what)
{
    add(prog, BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)nr, 0, 1);
    answer(prog, what);
}

static GArray *build(const bool *denied)
{
    const uint32_t refused = SECCOMP_RET_ERRNO | EPERM, absent = SECCOMP_RET_ERRNO | ENOSYS;
    GArray *prog = g_array_new(false, false, sizeof(struct sock_filter));

    load(prog, offsetof(struct seccomp_data, arch));
    add(prog, BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0);
    answer(prog, absent);
    load(prog, offsetof(struct seccomp_data, nr));
    add(prog, BPF_JMP | BPF_JGE | BPF_K, X32_BIT, 0, 1);
    answer(prog, absent);
    refuse_call(prog, SYS_ioctl, SECCOMP_RET_ALLOW); /* first: KVM_RUN is one */
    for (size_t i = 0; i < G_N_ELEMENTS(groups); i++) {
        for (const int *nr = denied[i] ? groups[i].calls : NULL; nr && *nr >= 0; nr++) {
            refuse_call(prog, *nr, refused);
        }
        if (denied[i] && groups[i].calls == spawn_calls) {
            refuse_call(prog, SYS_clone3, absent);
            add(prog, BPF_JMP | BPF_JEQ | BPF_K, SYS_clone, 0, 4);
            load(prog, offsetof(struct seccomp_data, args[0]));
            add(prog, BPF_JMP | BPF_JSET | BPF_K, CLONE_THREAD, 0, 1);
            answer(prog, SECCOMP_RET_ALLOW);
            answer(prog, refused);
        }
        if (denied[i] && groups[i].calls == resource_calls) {
            add(prog, BPF_JMP | BPF_JEQ | BPF_K, SYS_prlimit64, 0, 6);
            load(prog, offsetof(struct seccomp_data, args[2]));
            add(prog, BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 3);
            load(prog, offsetof(struct seccomp_data, args[2]) + 4);
            add(prog, BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 1);
            answer(prog, SECCOMP_RET_ALLOW);
            answer(prog, refused);
        }
    }
    answer(prog, SECCOMP_RET_ALLOW);
    return prog;
}

int script_sandbox(lua_State *L)
{
    static const char *const keys[] = { "spawn", "elevateprivileges", "resourcecontrol", NULL };
    bool denied[G_N_ELEMENTS(groups)] = { true };

    if (!lua_isnoneornil(L, 1)) {
        luaL_checktype(L, 1, LUA_TTABLE);
        binding_check_keys(L, 1, keys, "sandbox");
        for (size_t i = 1; i < G_N_ELEMENTS(groups); i++) {
            binding_get_key(L, 1, groups[i].name);
            denied[i] = lua_toboolean(L, -1);
            lua_pop(L, 1);
        }
    }
    GArray *prog = build(denied);
    const struct sock_fprog filter = { (unsigned short)prog->len,
                                       (struct sock_filter *)prog->data };
    long rc = prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (rc == 0) {
        rc = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &filter);
    }
    int saved = errno;
    g_array_free(prog, true);
    if (rc != 0) {
        lua_pushnil(L);
        lua_pushfstring(L, "seccomp: %s",
                        rc > 0 ? "a thread has a filter of its own" : strerror(saved));
        return 2;
    }
    lua_pushboolean(L, 1);
    return 1;
}
