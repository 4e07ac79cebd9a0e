package commerce

import "strings"

// Event is a canonical event of the Segment e-commerce specification (version 2)
// or of its e-mail specification. The numbers are stable within a release only;
// what is stored is the name.
type Event uint8

// Canonical events.
const (
	UnknownEvent Event = iota
	ProductsSearched
	ProductListViewed
	ProductListFiltered
	PromotionViewed
	PromotionClicked
	ProductClicked
	ProductViewed
	ProductAdded
	ProductRemoved
	CartViewed
	CheckoutStarted
	CheckoutStepViewed
	CheckoutStepCompleted
	PaymentInfoEntered
	OrderCompleted
	OrderUpdated
	OrderRefunded
	OrderCancelled
	CouponEntered
	CouponApplied
	CouponDenied
	CouponRemoved
	ProductAddedToWishlist
	ProductRemovedFromWishlist
	WishlistProductAddedToCart
	ProductShared
	CartShared
	ProductReviewed
	EmailDelivered
	EmailOpened
	EmailLinkClicked
	EmailBounced
	EmailMarkedAsSpam
	EmailUnsubscribed
	events // their number
)

// canonical names, by event.
var canonical = [events]string{
	ProductsSearched: "Products Searched", ProductListViewed: "Product List Viewed", ProductListFiltered: "Product List Filtered",
	PromotionViewed: "Promotion Viewed", PromotionClicked: "Promotion Clicked",
	ProductClicked: "Product Clicked", ProductViewed: "Product Viewed", ProductAdded: "Product Added", ProductRemoved: "Product Removed",
	CartViewed: "Cart Viewed", CheckoutStarted: "Checkout Started", CheckoutStepViewed: "Checkout Step Viewed",
	CheckoutStepCompleted: "Checkout Step Completed", PaymentInfoEntered: "Payment Info Entered",
	OrderCompleted: "Order Completed", OrderUpdated: "Order Updated", OrderRefunded: "Order Refunded", OrderCancelled: "Order Cancelled",
	CouponEntered: "Coupon Entered", CouponApplied: "Coupon Applied", CouponDenied: "Coupon Denied", CouponRemoved: "Coupon Removed",
	ProductAddedToWishlist: "Product Added to Wishlist", ProductRemovedFromWishlist: "Product Removed from Wishlist",
	WishlistProductAddedToCart: "Wishlist Product Added to Cart",
	ProductShared:              "Product Shared", CartShared: "Cart Shared", ProductReviewed: "Product Reviewed",
	EmailDelivered: "Email Delivered", EmailOpened: "Email Opened", EmailLinkClicked: "Email Link Clicked",
	EmailBounced: "Email Bounced", EmailMarkedAsSpam: "Email Marked as Spam", EmailUnsubscribed: "Unsubscribed",
}

// LookupEvent returns the canonical event of a name as a client sent it, or
// UnknownEvent. Names compare without case, spaces, underscores and hyphens, so
// that "product_viewed" and "Product Viewed" are one; version 1 names and the
// aliases that Segment itself accepts are known.
func LookupEvent(name string) Event {
	if len(name) > 64 {
		return UnknownEvent
	}
	switch folded(name) {
	case "productssearched", "searchedproducts", "searchedproduct", "productsearched":
		return ProductsSearched
	case "productlistviewed", "viewedproductlist", "viewedproductcategory", "productcategoryviewed", "viewedcategory":
		return ProductListViewed
	case "productlistfiltered", "filteredproductlist":
		return ProductListFiltered
	case "promotionviewed", "viewedpromotion":
		return PromotionViewed
	case "promotionclicked", "clickedpromotion":
		return PromotionClicked
	case "productclicked", "clickedproduct":
		return ProductClicked
	case "productviewed", "viewedproduct":
		return ProductViewed
	case "productadded", "addedproduct", "producttocartadded", "productaddedtocart", "addedproducttocart", "addedtocart":
		return ProductAdded
	case "productremoved", "removedproduct", "productremovedfromcart", "removedproductfromcart", "removedfromcart":
		return ProductRemoved
	case "cartviewed", "viewedcart":
		return CartViewed
	case "checkoutstarted", "startedcheckout", "orderstarted", "startedorder":
		return CheckoutStarted
	case "checkoutstepviewed", "viewedcheckoutstep":
		return CheckoutStepViewed
	case "checkoutstepcompleted", "completedcheckoutstep":
		return CheckoutStepCompleted
	case "paymentinfoentered", "enteredpaymentinfo", "paymentinfoadded":
		return PaymentInfoEntered
	case "ordercompleted", "completedorder":
		return OrderCompleted
	case "orderupdated", "updatedorder":
		return OrderUpdated
	case "orderrefunded", "refundedorder":
		return OrderRefunded
	case "ordercancelled", "cancelledorder", "ordercanceled", "canceledorder":
		return OrderCancelled
	case "couponentered", "enteredcoupon":
		return CouponEntered
	case "couponapplied", "appliedcoupon":
		return CouponApplied
	case "coupondenied", "deniedcoupon":
		return CouponDenied
	case "couponremoved", "removedcoupon":
		return CouponRemoved
	case "productaddedtowishlist", "addedproducttowishlist":
		return ProductAddedToWishlist
	case "productremovedfromwishlist", "removedproductfromwishlist":
		return ProductRemovedFromWishlist
	case "wishlistproductaddedtocart", "addedwishlistproducttocart":
		return WishlistProductAddedToCart
	case "productshared", "sharedproduct":
		return ProductShared
	case "cartshared", "sharedcart":
		return CartShared
	case "productreviewed", "reviewedproduct":
		return ProductReviewed
	case "emaildelivered":
		return EmailDelivered
	case "emailopened":
		return EmailOpened
	case "emaillinkclicked":
		return EmailLinkClicked
	case "emailbounced":
		return EmailBounced
	case "emailmarkedasspam":
		return EmailMarkedAsSpam
	case "unsubscribed", "emailunsubscribed":
		return EmailUnsubscribed
	default:
		return UnknownEvent
	}
}

// String returns the canonical name, or "" for UnknownEvent.
func (e Event) String() string {
	if e >= events {
		return ""
	}
	return canonical[e]
}

// Events returns every canonical event, in the order of the funnel.
func Events() []Event {
	all := make([]Event, 0, events-1)
	for e := UnknownEvent + 1; e < events; e++ {
		all = append(all, e)
	}
	return all
}

// folded drops what does not distinguish names.
func folded(name string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		case r == ' ' || r == '_' || r == '-':
			return -1
		default:
			return r
		}
	}, name)
}
