/*
 * The hold: keeps every vCPU of a VM out of KVM_RUN for a moment, so that a change which KVM can
 * only make in two steps (a slot that is deleted and created again, a breakpoint's byte that is
 * taken out and put back) is one step for the guest.
 *
 * A vCPU announces itself in `in_run` before it looks at `active`; the holder sets `active` before
 * it looks at `in_run`. Both with sequential consistency, so at least one sees the other. A vCPU
 * that waits here holds no lock; the holder may hold the engine lock.
 */
#include "engine/accel/kvm/kvm_priv.h"

void kvm_hold_init(KvmHold *h)
{
    pthread_mutex_init(&h->mutex, NULL);
    pthread_cond_init(&h->cond, NULL);
}

void kvm_hold_destroy(KvmHold *h)
{
    pthread_cond_destroy(&h->cond);
    pthread_mutex_destroy(&h->mutex);
}

void kvm_hold_begin(KvmAccel *a, KvmVcpu *self)
{
    KvmHold *h = &a->hold;
    pthread_mutex_lock(&h->mutex);
    while (h->owned) {
        pthread_cond_wait(&h->cond, &h->mutex);
    }
    h->owned = true;
    __atomic_store_n(&h->active, 1, __ATOMIC_SEQ_CST);
    __atomic_fetch_add(&a->holds, 1, __ATOMIC_RELAXED);
    /* Everybody is kicked first, then waited for: they leave the guest in parallel. */
    for (unsigned i = 0; i < a->vcpus->len; i++) {
        KvmVcpu *kv = g_ptr_array_index(a->vcpus, i);
        if (kv && kv != self && __atomic_load_n(&kv->in_run, __ATOMIC_SEQ_CST)) {
            kvm_kick(kv);
        }
    }
    for (unsigned i = 0; i < a->vcpus->len; i++) {
        KvmVcpu *kv = g_ptr_array_index(a->vcpus, i);
        while (kv && kv != self && __atomic_load_n(&kv->in_run, __ATOMIC_SEQ_CST)) {
            pthread_cond_wait(&h->cond, &h->mutex);
        }
    }
    if (self) {
        self->exempt = true;
    }
    pthread_mutex_unlock(&h->mutex);
    if (!engine_lock_held()) {
        h->refuses = true;
        engine_lock_refuse_begin();
    }
}

void kvm_hold_end(KvmAccel *a, KvmVcpu *self)
{
    KvmHold *h = &a->hold;
    if (h->refuses) {
        h->refuses = false;
        engine_lock_refuse_end();
    }
    pthread_mutex_lock(&h->mutex);
    if (self) {
        self->exempt = false;
    }
    h->owned = false;
    __atomic_store_n(&h->active, 0, __ATOMIC_SEQ_CST);
    pthread_cond_broadcast(&h->cond);
    pthread_mutex_unlock(&h->mutex);
}

/* On a vCPU thread that found the hold active on its way in; in_run is 0. */
void kvm_hold_wait(KvmVcpu *kv)
{
    KvmHold *h = &kv->a->hold;
    pthread_mutex_lock(&h->mutex);
    pthread_cond_broadcast(&h->cond);
    while (h->owned) {
        pthread_cond_wait(&h->cond, &h->mutex);
    }
    pthread_mutex_unlock(&h->mutex);
}

/* On a vCPU thread that left KVM_RUN while the hold is active. */
void kvm_hold_notify(KvmAccel *a)
{
    pthread_mutex_lock(&a->hold.mutex);
    pthread_cond_broadcast(&a->hold.cond);
    pthread_mutex_unlock(&a->hold.mutex);
}
