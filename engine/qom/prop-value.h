/* Conversion of property values; for property.c only. */
#pragma once

#include "engine/qom/qom_priv.h"

/* What an element of a list property is, as a property of its own. */
Property property_element(const Property *prop);
/* *out owns what it holds; nothing on failure. `obj` names the object in messages and is where a
 * partial path starts. */
bool property_convert(Object *obj, const Property *prop, const PropValue *in, PropValue *out,
                      GError **error);
bool property_value_parse(Object *obj, const Property *prop, const char *text, PropValue *out,
                          GError **error);
/* Always false. */
bool property_bad_value(Object *obj, const Property *prop, GError **error, const char *format, ...)
    G_GNUC_PRINTF(4, 5);
