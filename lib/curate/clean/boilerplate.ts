/** Lines of at most this many characters can be boilerplate by the patterns below: a longer one is text that mentions such words. */
const LONGEST = 80

/** Lines that are boilerplate wherever they stand, also as a whole text. */
const ALWAYS: readonly RegExp[] = [
  // 首页 > 新闻 > 正文
  /^(?:(?:您|你)?(?:的|现在的|当前的?|目前)?(?:位置|所在位置)\s*[：:]|首页\s*(?:>>?|»|›|→)|(?=.*\p{Script=Han})[^\s<>»›→]{1,12}\s*(?:>>?|»|›|→)\s*[^\s<>»›→]{1,16}\s*(?:>>?|»|›|→)).{0,60}$/u,
  // 新闻 | 体育 | 财经 | 娱乐
  /^[|｜·•]?\s*[^\s|｜·•，。！？；]{1,8}(?:\s*[|｜·•]\s*[^\s|｜·•，。！？；]{1,8}){3,}\s*[|｜·•]?$/u,
  /^(?:首页|主页|返回首页|回到首页|返回顶部|回到顶部|返回列表|返回上一页|返回|正文|网站地图|设为首页|加入收藏|收藏本站|登录|注册|登录\s*[|/]\s*注册|免费注册|退出|搜索|关闭(?:窗口)?|打印(?:本页|此文)?|更多|更多[>»›]+|查看更多|加载更多|点击加载更多|展开全文|收起|阅读全文|查看全文|点击查看(?:全文|原文|更多|详情|大图)?|阅读原文|原文链接|下一页|上一页|尾页|末页|广告|推广|赞助商链接|热门推荐|相关推荐|相关阅读|相关文章|相关新闻|推荐阅读|猜你喜欢|大家都在看|热门文章|最新文章|精彩推荐|编辑推荐|为您推荐|网友评论|发表评论|我要评论|我来说两句|暂无评论|评论|点赞|收藏|分享|举报|赞|踩|转发|字体(?:大小)?[：:]?\s*(?:大\s*中\s*小)?)$/u,
  /^(?:关于我们|联系我们|加入我们|诚聘英才|人才招聘|广告服务|友情链接|网站声明|隐私政策|用户协议|服务条款|使用帮助|帮助中心|意见反馈|网站导航|手机版|电脑版|客户端下载)(?:\s*[|｜·•/\s-]\s*\S{2,8})*$/u,
  /^字号\s*[：:]?\s*(?:特?大|中|小)(?:\s*[|/]?\s*(?:特?大|中|小))*$/u,
  // nothing but marks: ------ ****** ======
  /^[-=_*~#+.·•—―─━☆★◆■□●○>》\s]{4,}$/u,
]

/** Lines that are boilerplate beside others. Alone they may be a question: 怎么关注微信公众号. */
const AMONG_OTHERS: readonly RegExp[] = [
  /^(?:上一篇|下一篇|上一章|下一章|前一篇|后一篇)\s*[：:]?.{0,60}$/u,
  /^(?:第\s*\d+\s*页\s*[,，]?\s*)?共\s*\d+\s*页.{0,20}$/u,
  /^(?:分享到|分享至|分享给|转发到|一键分享)\s*[：:]?.{0,40}$/u,
  /^(?:责任编辑|责编|编辑|本文编辑|实习编辑|编审|校对|审核|初审|终审|监制|作者简介|稿源|来源|文章来源|信息来源|稿件来源|本文来源|图片来源|图源|原标题|文章标题|本文标题|本文地址|本文链接|原文地址|转载自|发布时间|发表时间|发布日期|更新时间|更新日期|发布者|发布人|浏览次数|浏览量|阅读次数|阅读数|阅读量|点击数|点击量|点击率|浏览|阅读|点击|访问量|评论数|关键词|关键字|标签|tags?)\s*[：:].{0,60}$/iu,
  /^(?:点击(?:上方|下方|左上角)?.{0,4}蓝字.{0,20}|以上就是小编.{0,60}|觉得(?:不错|有用|好看).{0,12}点(?:个|一下)?(?:在看|赞).{0,10})$/u,
  /^(?:阅读|评论|点赞|浏览|收藏|转发)\s*[（(]\s*\d+\s*[)）](?:\s*\S{2,4}\s*[（(]\s*\d+\s*[)）])*$/u,
  /^.{0,20}(?:扫一扫|扫码|扫描(?:下方|上方|左侧|右侧|以下|上面|下面)?.{0,4}二维码|长按.{0,6}二维码|关注.{0,16}(?:公众号|微信号|官方微信|官方微博)|微信公众号\s*[：:]|下载.{0,10}(?:APP|客户端)).{0,40}$/iu,
  /^.{0,20}(?:版权所有|版权声明|免责声明|未经.{0,12}(?:授权|许可|允许|同意)|转载请(?:注明|联系|保留)|转载.{0,6}须(?:注明|经)|侵权(?:请|必|即)|如有侵权|All Rights Reserved|Copyright\s*(?:©|\(c\)|\d{4})|©\s*\d{4}).{0,60}$/iu,
  /^.{0,30}(?:ICP[备证][\d\s]{0,4}|公网安备|网安备\s*\d|许可证(?:号|编号)\s*[：:]|互联网新闻信息服务|违法和?不良信息举报|举报(?:电话|邮箱|热线)\s*[：:]|客服(?:电话|热线)\s*[：:]|备案号).{0,60}$/iu,
]

/** An item of a list is a sentence of the text: 2. 拨打举报电话：12345 */
const LIST_ITEM = /^\s*(?:[（(]?(?:\d{1,2}|[一二三四五六七八九十]{1,3})[）).、．]|[①-⑳])/u

// A cheap look at a short line first: most hold none of this.
const TRACE =
  /[>»›→|｜©·•]|首页|蓝字|小编|字号|在看|点赞|收藏|主页|返回|顶部|登录|注册|更多|全文|上一|下一|前一|后一|页|分享|编辑|来源|作者|标题|转载|发[布表]|更新|浏览|阅读|点击|评论|关键|标签|tag|扫|二维码|公众号|微信|微博|APP|客户端|版权|声明|侵权|Rights|Copyright|备|许可证|举报|客服|关于|联系|友情|隐私|协议|条款|帮助|反馈|导航|推荐|推广|广告|喜欢|在看|文章|正文|收[起藏]|打印|关闭|搜索|退出|访问|校对|审|监制|稿源|图源|原文|赞|踩|转发|字体|加入|诚聘|招聘|网站|手机版|电脑版|[-=_*~#+.—―─━☆★◆■□●○》]{4}/iu

/**
 * Removes lines of navigation and boilerplate: those that match a pattern above, or one of the user's, as a whole. The patterns of
 * AMONG_OTHERS apply to texts of more than one line, and not to items of a list.
 */
export function boilerplateRemover(extra: readonly string[]): (text: string) => string {
  const own = extra.map((pattern) => new RegExp(`^(?:${pattern})$`, 'u'))
  return (text) => {
    if (text.length > LONGEST && own.length === 0 && !text.includes('\n')) return text
    const lines = text.split('\n')
    const isBoilerplate = (line: string): boolean =>
      (line.length <= LONGEST &&
        TRACE.test(line) &&
        (ALWAYS.some((pattern) => pattern.test(line)) ||
          (lines.length > 1 && !LIST_ITEM.test(line) && AMONG_OTHERS.some((pattern) => pattern.test(line))))) ||
      own.some((pattern) => pattern.test(line))
    const kept = lines.filter((line) => !isBoilerplate(line))
    return kept.length === lines.length ? text : kept.join('\n')
  }
}
