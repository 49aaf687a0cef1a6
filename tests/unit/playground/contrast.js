// Texts that are seen and whose contrast is less than WCAG 2.2 AA asks for; of a dialog alone where one is open.
() => {
  const parse = (text) => {
    const [r, g, b, a = 1] = text.match(/[\d.]+/g).map(Number);
    return { r, g, b, a };
  };
  const over = (top, below) => {
    const mix = (x, y) => x * top.a + y * (1 - top.a);
    return { r: mix(top.r, below.r), g: mix(top.g, below.g), b: mix(top.b, below.b), a: 1 };
  };
  const groundOf = (element) => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) {
      const color = parse(getComputedStyle(at).backgroundColor);
      if (color.a > 0) layers.push(color);
      if (color.a === 1) break;
    }
    return layers.reverse().reduce((below, top) => over(top, below), { r: 255, g: 255, b: 255, a: 1 });
  };
  const light = ({ r, g, b }) => {
    const [x, y, z] = [r, g, b].map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const ratio = (one, two) => {
    const [low, high] = [light(one), light(two)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const root = document.querySelector("dialog[open]") ?? document.body;
  const wrong = [];
  let seen = 0;
  const look = (element, style, text) => {
    if (style.visibility === "hidden" || style.opacity === "0" || !element.getClientRects().length) return;
    if (element.closest(".unseen, .skip")) return;
    seen += 1;
    const size = parseFloat(style.fontSize);
    const isLarge = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    const ground = groundOf(element);
    const found = ratio(over(parse(style.color), ground), ground);
    if (found < (isLarge ? 3 : 4.5)) wrong.push(`${text.trim().slice(0, 40)}: ${found.toFixed(2)} (${element.className})`);
  };
  const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (walker.currentNode.data.trim()) look(element, getComputedStyle(element), walker.currentNode.data);
  }
  for (const input of root.querySelectorAll("[placeholder]")) look(input, getComputedStyle(input, "::placeholder"), input.placeholder);
  return seen ? wrong : ["no text was found"];
};
