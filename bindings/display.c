/*
 * Screens as scripts see them: vm.screen, its characters, pixels and pictures. What waits for them
 * to change is in display-watch.c.
 *
 * Everything that reads pixels brings the picture up to date first.
 */
#include "bindings/binding.h"

#include "engine/display/surface.h"
#include "engine/machine/machine.h"

static Console *check_console(lua_State *L)
{
    return binding_check_object(L, 1, TYPE_CONSOLE);
}

/* ---- characters ----------------------------------------------------------------------------- */

static int no_text(lua_State *L, const Console *con)
{
    lua_pushnil(L);
    lua_pushfstring(L, "the screen is in a graphics mode (%d x %d)", (int)con->width,
                    (int)con->height);
    return 2;
}

static int con_text(lua_State *L)
{
    Console *con = check_console(L);
    const char *text = console_text_utf8(con);
    if (!text) {
        console_refresh(con);
        return no_text(L, con);
    }
    lua_pushstring(L, text);
    return 1;
}

/* A character, copied: a finaliser of a script may make the screen's own anew in any allocation. */
typedef struct ShownCell {
    gunichar c;
    ConsoleCell cell;
} ShownCell;

static void copy_cells(const Console *con, const ConsoleText *text, GByteArray *copy)
{
    for (size_t i = 0; i < (size_t)text->rows * text->columns; i++) {
        const ConsoleCell *cell = &text->cells[i];
        const ShownCell shown = { console_cell_unicode(con, cell), *cell };
        g_byte_array_append(copy, (const guint8 *)&shown, sizeof shown);
    }
}

static void push_cell(lua_State *L, const ShownCell *shown)
{
    char utf8[8];
    const int n = g_unichar_to_utf8(shown->c, utf8);
    lua_createtable(L, 0, 6);
    lua_pushlstring(L, utf8, (size_t)n);
    lua_setfield(L, -2, "char");
    lua_pushinteger(L, shown->cell.code);
    lua_setfield(L, -2, "code");
    lua_pushinteger(L, shown->cell.fg);
    lua_setfield(L, -2, "fg");
    lua_pushinteger(L, shown->cell.bg);
    lua_setfield(L, -2, "bg");
    lua_pushboolean(L, shown->cell.flags & CELL_BLINK);
    lua_setfield(L, -2, "blink");
    lua_pushboolean(L, shown->cell.flags & CELL_UNDERLINE);
    lua_setfield(L, -2, "underline");
}

static int con_cells(lua_State *L)
{
    Console *con = check_console(L);
    GByteArray *copy = binding_scratch(L);
    const ConsoleText *text = console_text(con);
    if (!text) {
        console_refresh(con);
        return no_text(L, con);
    }
    const unsigned rows = text->rows, columns = text->columns;
    copy_cells(con, text, copy);
    const ShownCell *shown = (const ShownCell *)(const void *)copy->data;
    lua_createtable(L, (int)rows, 0);
    for (unsigned row = 0; row < rows; row++) {
        lua_createtable(L, (int)columns, 0);
        for (unsigned col = 0; col < columns; col++) {
            push_cell(L, shown++);
            lua_rawseti(L, -2, (lua_Integer)col + 1);
        }
        lua_rawseti(L, -2, (lua_Integer)row + 1);
    }
    return 1;
}

static int con_cursor(lua_State *L)
{
    Console *con = check_console(L);
    const ConsoleText *text = console_text(con);
    if (!text || !text->cursor_visible) {
        lua_pushnil(L);
        return 1;
    }
    lua_pushinteger(L, (lua_Integer)text->cursor_column + 1);
    lua_pushinteger(L, (lua_Integer)text->cursor_row + 1);
    return 2;
}

static int con_get_mode(lua_State *L)
{
    lua_pushstring(L, console_text(check_console(L)) ? "text" : "graphics");
    return 1;
}

/* ---- pixels --------------------------------------------------------------------------------- */

static Console *refreshed(lua_State *L)
{
    Console *con = check_console(L);
    console_refresh(con);
    return con;
}

static int con_refresh(lua_State *L)
{
    lua_pushinteger(L, (lua_Integer)refreshed(L)->generation);
    return 1;
}

static int con_size(lua_State *L)
{
    const Console *con = refreshed(L);
    lua_pushinteger(L, con->width);
    lua_pushinteger(L, con->height);
    return 2;
}

static int con_pixel(lua_State *L)
{
    const Console *con = refreshed(L);
    const unsigned x = (unsigned)binding_check_range(L, 2, 0, con->width - 1, "x");
    const unsigned y = (unsigned)binding_check_range(L, 3, 0, con->height - 1, "y");
    lua_pushinteger(L, console_pixels(con, y)[x] & 0xffffff);
    return 1;
}

static int con_png(lua_State *L)
{
    const Console *con = refreshed(L);
    const char *path = luaL_checkstring(L, 2);
    GError *error = NULL;
    if (!png_write(path, con->surface, &error)) {
        return binding_fail(L, error);
    }
    lua_pushboolean(L, true);
    return 1;
}

typedef struct Box {
    unsigned x, y, width, height;
} Box;

static unsigned box_number(lua_State *L, int idx, int i, unsigned max)
{
    lua_rawgeti(L, idx, i);
    lua_Integer v = lua_tointeger(L, -1);
    if (!lua_isinteger(L, -1) || v < 0 || v > (lua_Integer)max) {
        luaL_error(L, "roi: value %d is to be 0 to %d", i, (int)max);
    }
    lua_pop(L, 1);
    return (unsigned)v;
}

/* { x, y, width, height } within the screen; all of it where idx holds nothing. */
static Box check_box(lua_State *L, int idx, const Console *con)
{
    Box box = { 0, 0, con->width, con->height };
    if (lua_isnoneornil(L, idx)) {
        return box;
    }
    luaL_checktype(L, idx, LUA_TTABLE);
    box.x = box_number(L, idx, 1, con->width - 1);
    box.y = box_number(L, idx, 2, con->height - 1);
    box.width = box_number(L, idx, 3, con->width - box.x);
    box.height = box_number(L, idx, 4, con->height - box.y);
    if (!box.width || !box.height) {
        luaL_error(L, "roi: it is empty");
    }
    return box;
}

static int con_hash(lua_State *L)
{
    const Console *con = refreshed(L);
    const Box box = check_box(L, 2, con);
    char hash[65];
    /* Before Lua is asked for memory: a finaliser could change the picture's size. */
    char *text = picture_hash(con->surface, box.x, box.y, box.width, box.height);
    g_strlcpy(hash, text, sizeof hash);
    g_free(text);
    lua_pushstring(L, hash);
    return 1;
}

static bool has_size(pixman_image_t *image, unsigned width, unsigned height)
{
    return (unsigned)pixman_image_get_width(image) == width &&
           (unsigned)pixman_image_get_height(image) == height;
}

/* The box of an image of the whole screen; else the image, which is of the box. Consumes it. */
static pixman_image_t *crop(pixman_image_t *image, const Console *con, const Box *box)
{
    if (has_size(image, box->width, box->height) || !has_size(image, con->width, con->height)) {
        return image;
    }
    pixman_image_t *part = pixman_image_create_bits(PIXMAN_a8r8g8b8, (int)box->width,
                                                    (int)box->height, NULL, 0);
    const unsigned stride = (unsigned)pixman_image_get_stride(image) / 4;
    for (unsigned y = 0; part && y < box->height; y++) {
        memcpy(pixman_image_get_data(part) +
                   (size_t)y * (unsigned)pixman_image_get_stride(part) / 4,
               pixman_image_get_data(image) + (size_t)(box->y + y) * stride + box->x,
               box->width * sizeof(uint32_t));
    }
    pixman_image_unref(image);
    return part;
}

static pixman_image_t *read_part(const char *path, const Console *con, const Box *box,
                                 GError **error)
{
    pixman_image_t *image = png_read(path, error);
    if (!image) {
        return NULL;
    }
    const int width = pixman_image_get_width(image), height = pixman_image_get_height(image);
    image = crop(image, con, box);
    if (image && !has_size(image, box->width, box->height)) {
        g_set_error(error, g_quark_from_static_string("vmlua-screen"), 0,
                    "%s has %d x %d pixels, what is compared %u x %u", path, width, height,
                    box->width, box->height);
        pixman_image_unref(image);
        return NULL;
    }
    return image;
}

/* screen:_compare(file, roi, mask, tolerance) -> compared, different, worst, x, y */
static int con_compare(lua_State *L)
{
    const char *path = luaL_checkstring(L, 2);
    const char *mask_path = luaL_optstring(L, 4, NULL);
    const Console *con = refreshed(L);
    const Box box = check_box(L, 3, con);
    const unsigned tolerance = (unsigned)binding_check_range(L, 5, 0, 255, "tolerance");
    GError *error = NULL;
    PictureDiff diff = { 0 };
    pixman_image_t *mask = NULL, *reference = read_part(path, con, &box, &error);
    if (reference && mask_path) {
        mask = read_part(mask_path, con, &box, &error);
    }
    if (!error && reference) {
        picture_compare(con->surface, box.x, box.y, reference, mask, tolerance, &diff);
    }
    if (mask) {
        pixman_image_unref(mask);
    }
    if (reference) {
        pixman_image_unref(reference);
    }
    if (error) {
        return binding_fail(L, error);
    }
    lua_pushinteger(L, (lua_Integer)diff.compared);
    lua_pushinteger(L, (lua_Integer)diff.different);
    lua_pushinteger(L, diff.worst);
    lua_pushinteger(L, diff.x);
    lua_pushinteger(L, diff.y);
    return 5;
}

static int con_get_width(lua_State *L)
{
    lua_pushinteger(L, refreshed(L)->width);
    return 1;
}

static int con_get_height(lua_State *L)
{
    lua_pushinteger(L, refreshed(L)->height);
    return 1;
}

static int con_get_generation(lua_State *L)
{
    lua_pushinteger(L, (lua_Integer)refreshed(L)->generation);
    return 1;
}

/* ---- the screens of a machine -----------------------------------------------------------------
 */

/* Calls itself for what is below; pushes consoles into the list on top of the stack. */
static void collect(lua_State *L, Object *obj)
{
    for (unsigned i = 0; i < object_child_count(obj); i++) {
        Object *child = object_child_at(obj, i);
        if (object_dynamic_cast(child, TYPE_CONSOLE)) {
            binding_push_object(L, child);
            lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
        }
        luaL_checkstack(L, 4, "screens");
        collect(L, child);
    }
}

static int machine_get_screens(lua_State *L)
{
    Object *m = binding_check_object(L, 1, TYPE_MACHINE);
    lua_newtable(L);
    collect(L, m);
    return 1;
}

static int machine_get_screen(lua_State *L)
{
    machine_get_screens(L);
    lua_rawgeti(L, -1, 1);
    return 1;
}

static const ApiFunction console_methods[] = {
    { "_text", con_text, "(): string?, string?", "What screen:text() answers." },
    { "_cells", con_cells, "(): table[][]?, string?", "What screen:text{ cells = true } answers." },
    { "cursor", con_cursor, "(): integer?, integer?",
      "Column and row of the cursor, from 1; nil when none shows, and in graphics modes." },
    { "refresh", con_refresh, "(): integer",
      "Brings the picture up to date; its generation, which rises when a pixel has changed." },
    { "size", con_size, "(): integer, integer", "Width and height in pixels." },
    { "pixel", con_pixel, "(x: integer, y: integer): integer",
      "0xRRGGBB; from 0, 0 at the top "
      "left." },
    { "png", con_png, "(file: string): boolean?, string?", "Writes the picture to a PNG file." },
    { "hash", con_hash, "(roi?: integer[]): string",
      "SHA-256 of size and pixels, of all or of { x, y, width, height }: equal pictures, equal "
      "hashes." },
    { "_compare", con_compare,
      "(file: string, roi?: integer[], mask?: string, tolerance: integer): integer?, "
      "integer|string, integer?, integer?, integer?",
      "What screen:match is made of: compared, different, worst, x, y." },
    { 0 },
};
static const ApiField console_fields[] = {
    { "width", con_get_width, NULL, "integer", "In pixels." },
    { "height", con_get_height, NULL, "integer", "In pixels." },
    { "generation", con_get_generation, NULL, "integer",
      "Rises when the picture has changed since it was looked at last." },
    { "mode", con_get_mode, NULL, "string", "\"text\" or \"graphics\"." },
    { 0 },
};
static const ApiField machine_fields[] = {
    { "screen", machine_get_screen, NULL, "console?",
      "What its first display shows; nil without one." },
    { "screens", machine_get_screens, NULL, "console[]", "Those of all displays." },
    { 0 },
};

void binding_open_display(lua_State *L)
{
    binding_class(L, TYPE_CONSOLE, "What a display shows.", console_methods, console_fields);
    binding_class(L, TYPE_MACHINE, NULL, NULL, machine_fields);
}
