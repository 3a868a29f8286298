// Sets a field, where it is a slider also to a value that lies between its steps or beyond its ends.

export function put(field, value) {
  field.value = value;
  if (field.type !== "range" || Number(field.value) === Number(value)) return;
  field.min = Math.min(field.min, value);
  field.max = Math.max(field.max, value);
  field.step = "any";
  field.value = value;
}
