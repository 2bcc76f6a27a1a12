/* Between property.c, prop-value.c and prop-field.c. */
#pragma once

#include "engine/qom/qom_priv.h"

/* What an element of a list property is, as a property of its own. */
Property property_element(const Property *prop);
/* `obj` (may be NULL) names the object in messages. */
bool property_value_parse(Object *obj, const Property *prop, const char *text, PropValue *out,
                          GError **error);
/* Always false. */
bool property_bad_value(Object *obj, const Property *prop, GError **error, const char *format, ...)
    G_GNUC_PRINTF(4, 5);

bool property_is_field(const Property *p);
bool property_is_kept_link(const Property *p);
void property_field_load(Object *obj, const Property *p, PropValue *out);
void property_link_drop(LinkRef *link);
