/* Lines as scripts hold them: interrupt inputs of devices and of the machine. */
#include "engine/core/irq.h"

#include "bindings/binding-priv.h"
#include "engine/core/lock.h"

#define IRQ_CLASS "vmlua.irq"

typedef struct ScriptIrq {
    Irq *irq;
} ScriptIrq;

static void drop_irq(void *data)
{
    irq_unref(data);
}

static int irq_gc(lua_State *L)
{
    ScriptIrq *s = lua_touserdata(L, 1);
    if (s->irq) {
        binding_defer(drop_irq, s->irq);
        s->irq = NULL;
    }
    return 0;
}

void binding_push_irq(lua_State *L, Irq *irq)
{
    if (!irq) {
        lua_pushnil(L);
        return;
    }
    ScriptIrq *s = binding_new_userdata(L, IRQ_CLASS, sizeof *s);
    s->irq = irq_ref(irq);
}

Irq *binding_check_irq(lua_State *L, int arg)
{
    ScriptIrq *s = binding_check_userdata(L, arg, IRQ_CLASS);
    return s->irq;
}

static int l_set(lua_State *L)
{
    Irq *irq = binding_check_irq(L, 1);
    int level = lua_isboolean(L, 2) ? lua_toboolean(L, 2) : luaL_checkinteger(L, 2) != 0;
    irq_set(irq, level);
    return 0;
}

static int l_raise(lua_State *L)
{
    irq_raise(binding_check_irq(L, 1));
    return 0;
}

static int l_lower(lua_State *L)
{
    irq_lower(binding_check_irq(L, 1));
    return 0;
}

static int l_pulse(lua_State *L)
{
    irq_pulse(binding_check_irq(L, 1));
    return 0;
}

static int l_level(lua_State *L)
{
    lua_pushinteger(L, irq_level(binding_check_irq(L, 1)));
    return 1;
}

static int l_eq(lua_State *L)
{
    const ScriptIrq *a = luaL_testudata(L, 1, IRQ_CLASS), *b = luaL_testudata(L, 2, IRQ_CLASS);
    lua_pushboolean(L, a && b && a->irq == b->irq);
    return 1;
}

static const ApiFunction methods[] = {
    { "set", l_set, "(self, level: boolean|integer)", "Drives the line." },
    { "raise", l_raise, "(self)", "Drives the line high." },
    { "lower", l_lower, "(self)", "Drives the line low." },
    { "pulse", l_pulse, "(self)", "High, then low." },
    { "__eq", l_eq, NULL, NULL },
    { NULL },
};
static const ApiField fields[] = {
    { "level", l_level, NULL, "integer", "What was last driven: 0 or 1." },
    { NULL },
};

void binding_open_irq(lua_State *L)
{
    binding_userdata_class(L, IRQ_CLASS, "A line: what interrupt and reset wires end in.", methods,
                           fields, irq_gc);
}
