// Every word of the page, in the languages it speaks, and what it has said, to be said again in another.

export const WORDS = {
  en: {
    draw: "What to do", prompt: "Prompt", prompt_hint: "a red apple", negative: "Steer away from",
    model: "Model", count: "Pictures", width: "Width", height: "Height", steps: "Steps", guidance: "Guidance",
    sampler: "Sampler", grid: "Noise levels", seed: "Seed", seed_hint: "a fresh one", go: "Draw", cancel: "Cancel",
    drop: "Drop a picture here, or choose one, to get its settings back", now: "Now", empty: "Your picture appears here.",
    history: "History", more: "Older ones", before: "Previous picture", after: "Next picture",
    again: "Use its settings", save: "Save", forget: "Delete", close: "Close", door: "This server wants a token",
    token: "Token", wrong_token: "That is not its token.", enter: "Enter", auto: "model's own", other_language: "中文",
    queued: "Waiting, {n} before this one", running: "Step {step} of {steps}", done: "Done", failed: "Failed",
    cancelled: "Cancelled", told: "The picture's settings are in the form.", silent: "This picture does not say how it was made.",
    seed_of: "seed", waiting: "{n} at work", offline: "The server does not answer.", picture: "Picture: {prompt}",
    preview: "The picture while it is drawn", sure: "Delete this job and all its pictures?",
    kind_picture: "the result", kind_sample: "a sample", kind_uncertainty: "where the samples differ",
    restore: "Restore", task: "Task", task_draw: "Draw from words", task_edit: "Change a picture", task_denoise: "Take the noise from a photograph",
    task_upscale: "Enlarge a photograph", task_inpaint: "Mend a photograph", task_deblur: "Sharpen a blurred photograph",
    missing_help: "Paint what is missing: scratches, lettering, lost pixels; all else stays. Keys: arrows move, space paints, Ctrl Z undoes, Delete clears.",
    need_mask: "Paint what is missing first.", blur: "Blur, in pixels", sigma_one: "1",
    choose: "Choose a picture, or drop it here", strength: "How much is changed",
    mask: "The picture to paint on", mask_help: "Paint what is to be drawn anew; paint nothing to change all of it. Keys: arrows move, space paints, Ctrl Z undoes, Delete clears.",
    brush: "Brush", undo: "Undo", clear: "Clear", samples: "Samples", sigma: "Noise, of 255", sigma_hint: "estimated", scale: "Times larger",
    edge: "Before and after", before_picture: "The picture before", after_picture: "The picture after",
    map: "Where the samples differ: bright is unsure", need: "Choose a picture first.", progress: "Progress",
    unreadable: "This file is no picture that can be shown.", anew: "The picture's settings are in the form; choose the picture it began from.",
    task_outpaint: "Draw beyond a picture's edges", margin: "Pixels to draw around it", left: "Left", top: "Top", right: "Right", bottom: "Bottom",
    hires: "Then enlarge and refine, times", hires_off: "no", vary: "Variation", vary_help: "Above 0, the pictures are alike: one seed, its noise turned so far.",
    variations: "Variations", share: "Save without its words", addons: "Add-ons", addon: "LoRA or textual inversion, into the prompt", none: "none",
    control: "ControlNet", control_image: "Choose the picture it looks at", control_scale: "How much it says",
    checked: "content check", decision_passed: "passed", decision_flagged: "flagged", decision_withheld: "withheld", decision_unchecked: "not checked",
    score: "score {score} of {threshold}", check_auto: "Pictures of models the owner loads are withheld from content score {n}",
    check_withhold: "Pictures are withheld from content score {n}", check_report: "Pictures are flagged from content score {n}", check_off: "Pictures are not checked",
    guard_block_list: "some words are refused", guard_watermark: "pictures are marked invisibly", guard_signed: "pictures are signed", guard_shareable: "files tell no words",
    kept: "Also as in the picture:", kept_drop: "Drop these",
  },
  zh: {
    draw: "要做什么", prompt: "提示词", prompt_hint: "一个红苹果", negative: "要避开的内容",
    model: "模型", count: "张数", width: "宽", height: "高", steps: "步数", guidance: "引导强度",
    sampler: "采样器", grid: "噪声级别", seed: "种子", seed_hint: "随机", go: "开始画", cancel: "取消",
    drop: "把图片拖到这里，或点击选择，取回它的设置", now: "当前", empty: "图片会出现在这里。",
    history: "历史", more: "更早的", before: "上一张", after: "下一张",
    again: "使用它的设置", save: "保存", forget: "删除", close: "关闭", door: "此服务器需要令牌",
    token: "令牌", wrong_token: "令牌不对。", enter: "进入", auto: "模型默认", other_language: "English",
    queued: "排队中，前面还有 {n} 个", running: "第 {step} 步，共 {steps} 步", done: "完成", failed: "失败",
    cancelled: "已取消", told: "图片的设置已填入表单。", silent: "这张图片没有说明是怎样生成的。",
    seed_of: "种子", waiting: "{n} 个任务进行中", offline: "服务器没有回应。", picture: "图片：{prompt}",
    preview: "正在生成的图片", sure: "删除这个任务和它的所有图片？",
    kind_picture: "结果", kind_sample: "一次采样", kind_uncertainty: "采样的差异",
    restore: "开始处理", task: "任务", task_draw: "用文字画图", task_edit: "修改图片", task_denoise: "照片去噪",
    task_upscale: "放大照片", task_inpaint: "修补照片", task_deblur: "去除照片模糊",
    missing_help: "涂抹缺失的部分：划痕、文字、丢失的像素；其余保持不变。键盘：方向键移动，空格涂抹，Ctrl Z 撤销，Delete 清除。",
    need_mask: "请先涂抹缺失的部分。", blur: "模糊程度（像素）", sigma_one: "1",
    choose: "选择图片，或拖到这里", strength: "修改程度",
    mask: "在图片上涂抹", mask_help: "涂抹要重画的部分；不涂抹则修改整张图片。键盘：方向键移动，空格涂抹，Ctrl Z 撤销，Delete 清除。",
    brush: "画笔大小", undo: "撤销", clear: "清除", samples: "采样数", sigma: "噪声（满值 255）", sigma_hint: "自动估计", scale: "放大倍数",
    edge: "处理前后", before_picture: "处理前的图片", after_picture: "处理后的图片",
    map: "各次采样的差异：越亮越不确定", need: "请先选择图片。", progress: "进度",
    unreadable: "此文件不是可以显示的图片。", anew: "图片的设置已填入表单；请选择它的原图。",
    task_outpaint: "向外扩展图片", margin: "四周要画的像素", left: "左", top: "上", right: "右", bottom: "下",
    hires: "画完后放大并细化，倍数", hires_off: "不放大", vary: "变化程度", vary_help: "大于 0 时各张相似：同一个种子，噪声转动这么多。",
    variations: "画变体", share: "保存（不含提示词）", addons: "附加组件", addon: "LoRA 或文本反转，加入提示词", none: "无",
    control: "ControlNet", control_image: "选择它要看的图片", control_scale: "影响程度",
    checked: "内容检查", decision_passed: "通过", decision_flagged: "已标记", decision_withheld: "已隐藏", decision_unchecked: "未检查",
    score: "得分 {score}，界限 {threshold}", check_auto: "所有者加载的模型，得分达到 {n} 的图片会被隐藏",
    check_withhold: "内容得分达到 {n} 的图片会被隐藏", check_report: "内容得分达到 {n} 的图片会被标记", check_off: "不检查图片内容",
    guard_block_list: "拒绝某些词语", guard_watermark: "图片带隐形水印", guard_signed: "图片带签名", guard_shareable: "文件不含提示词",
    kept: "同样取自图片：", kept_drop: "去掉这些",
  },
};

const stored = localStorage.getItem("language");
let language = stored ?? (navigator.language.startsWith("zh") ? "zh" : "en");

export function word(name, values = {}) {
  return WORDS[language][name].replace(/\{(\w+)\}/g, (_, key) => values[key]);
}

const said = new Map();

// Has the node say what `make` gives, now and whenever the language changes.
export function say(id, make) {
  said.set(id, make);
  document.getElementById(id).textContent = make();
}

export function speak(next = language) {
  language = next;
  localStorage.setItem("language", language);
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  for (const node of document.querySelectorAll("[data-word]")) node.textContent = word(node.dataset.word);
  for (const node of document.querySelectorAll("[data-hint]")) node.placeholder = word(node.dataset.hint);
  for (const node of document.querySelectorAll("[data-label]")) node.setAttribute("aria-label", word(node.dataset.label));
  for (const node of document.querySelectorAll("[data-alt]")) node.alt = word(node.dataset.alt);
  for (const [id, make] of said) say(id, make);
  const other = document.getElementById("language");
  other.textContent = word("other_language");
  other.lang = language === "zh" ? "en" : "zh";
  other.setAttribute("aria-label", word("other_language"));
}

export const otherLanguage = () => (language === "zh" ? "en" : "zh");
