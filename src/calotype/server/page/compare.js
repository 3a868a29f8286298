// Before and after, one over the other with a movable edge; and the map of where samples differ.

const $ = (id) => document.getElementById(id);

export function compare(before, after, map) {
  $("compare").hidden = !before;
  $("map").hidden = !map;
  if (before) {
    $("was").src = before;
    $("became").src = after;
    move();
  }
  if (map) $("map-image").src = map;
}

function move() {
  $("became").style.clipPath = `inset(0 0 0 ${$("edge").value}%)`;
}

$("edge").addEventListener("input", move);
